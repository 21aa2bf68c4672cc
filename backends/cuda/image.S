/* The fat binary that nvcc made of kernels/, as read-only data. */
    .section .rodata
    .global cuda_kernels_image
    .hidden cuda_kernels_image
    .balign 64
cuda_kernels_image:
    .incbin CUDA_IMAGE
    .byte 0
    .section .note.GNU-stack, "", %progbits
