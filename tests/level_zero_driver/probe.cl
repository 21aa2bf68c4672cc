/* Kernels for the driver's own test: one that is right, one that writes behind its memory. */

__kernel void scale(__global float *out, __global const float *in, const float factor) {
  const size_t i = get_global_id(0);
  out[i] = factor * in[i];
}

__kernel __attribute__((reqd_work_group_size(8, 1, 1))) void reverse(__global int *data) {
  __local int shared[8];
  const size_t i = get_local_id(0), group = get_group_id(0) * 8;
  shared[i] = data[group + i];
  barrier(CLK_LOCAL_MEM_FENCE);
  data[group + i] = shared[7 - i];
}

__kernel void write_before(__global uchar *data) {
  data[-1] = 1;
}
