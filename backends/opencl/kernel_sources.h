/* The OpenCL C text of each module, made by embed.cmake. NUL-terminated. */
#ifndef OPENCL_KERNEL_SOURCES_H
#define OPENCL_KERNEL_SOURCES_H

extern const char opencl_source_base[];
extern const char opencl_source_matmul_cpu[];
extern const char opencl_source_matmul_gpu[];
extern const char opencl_source_attention_cpu[];
extern const char opencl_source_attention_gpu[];

#endif
