# Makes OUTPUT, SPIR-V 1.2, from SOURCE. The plain optimizing pipelines give modules that spirv-val
# rejects, so a short list of passes runs instead; lifetime markers would leave odd integer widths.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code ERROR_VARIABLE text)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${ARGV0} failed on ${SOURCE}:\n${text}")
  endif()
endfunction()

separate_arguments(definitions UNIX_COMMAND "${DEFINITIONS}")
run(${CLANG} -target spir64 -cl-std=CL1.2 -O2 -Xclang -disable-llvm-passes
    -Xclang -disable-lifetime-markers -Xclang -finclude-default-header -ffp-contract=off
    ${definitions} -c -emit-llvm -o ${OUTPUT}.a.bc ${SOURCE})
run(${OPT} -passes=always-inline,inline,sroa,early-cse,instcombine,simplifycfg,dce
    ${OUTPUT}.a.bc -o ${OUTPUT}.b.bc)
run(${LLVM_SPIRV} --spirv-max-version=1.2 ${OUTPUT}.b.bc -o ${OUTPUT})
if(SPIRV_VAL)
  run(${SPIRV_VAL} --target-env opencl2.2 ${OUTPUT})
endif()
file(REMOVE ${OUTPUT}.a.bc ${OUTPUT}.b.bc)
