/* What every kernel shares: number formats, work-group shapes and how tensors arrive.
 *
 * A module is compiled with VARIANT_CPU or VARIANT_GPU. On a CPU a work-item owns a whole core for
 * a while, so groups have one item and vectors are written out as float16; on a GPU a group of
 * LANES neighbouring items shares a row and reads it side by side. Kernels that only move data
 * use one source for both: "for (i = LANE; i < n; i += LANES)".
 *
 * A tensor is a buffer, an offset and a row stride, both counted in elements of its type. */

#define F32  1u
#define F16  2u
#define BF16 3u
/* As CS_DTYPE_* has them; the IQ4 formats are last. */
#define Q8_0   32u
#define Q4_0   33u
#define Q4_1   34u
#define Q5_0   35u
#define Q5_1   36u
#define Q2_K   37u
#define Q3_K   38u
#define Q4_K   39u
#define Q5_K   40u
#define Q6_K   41u
#define IQ4_NL 42u
#define IQ4_XS 43u

#ifdef VARIANT_CPU
#define LANES 1
#define LANE  0
#define SPAN  1024 /* elements of a row that one item of an elementwise kernel takes */
#else
#define LANES 64
#define LANE  get_local_id(0)
#define SPAN  1
#endif

#define WORKGROUP(size) __attribute__((reqd_work_group_size(size, 1, 1)))

#define TENSOR(type, name)                                                                         \
  __global type *name##_base, const ulong name##_offset, const ulong name##_stride
#define VECTOR(type, name) __global type *name##_base, const ulong name##_offset
#define ROW(name, row)     (name##_base + name##_offset + (row)*name##_stride)
#define ELEMENTS(name)     (name##_base + name##_offset)

#ifdef VARIANT_CPU
float sum16(const float16 v) {
  const float8 a = v.lo + v.hi;
  const float4 b = a.lo + a.hi;
  const float2 c = b.lo + b.hi;
  return c.x + c.y;
}
#endif

#define TILE 32 /* rows of a packed weight tile */

/* Bit for bit what consort/half.h does, NaN payloads included. */
ushort f16_bits(const float value) {
  const uint bits = as_uint(value);
  const uint sign = bits >> 16 & 0x8000u;
  const uint magnitude = bits & 0x7fffffffu;
  const uint small = as_uint(as_float(magnitude) + 0.5f) - 0x3f000000u;
  const uint normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  uint half_bits = magnitude < 0x38800000u ? small : normal;
  half_bits = magnitude >= 0x477ff000u ? 0x7c00u : half_bits;
  half_bits = magnitude > 0x7f800000u ? 0x7e00u : half_bits;
  return (ushort)(sign | half_bits);
}

ushort bf16_bits(const float value) {
  const uint bits = as_uint(value);
  const uint rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (ushort)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}

float f16_value(const ushort half_bits) {
  const uint sign = (uint)(half_bits & 0x8000u) << 16;
  const uint exponent = half_bits >> 10 & 0x1fu;
  const uint fraction = half_bits & 0x3ffu;
  const uint small = as_uint((float)fraction * 0x1p-24f);
  const uint normal = (exponent + 112) << 23 | fraction << 13;
  uint bits = exponent == 0 ? small : normal;
  bits = exponent == 31 ? (0x7f800000u | fraction << 13) : bits;
  return as_float(sign | bits);
}

float bf16_value(const ushort bits) {
  return as_float((uint)bits << 16);
}

/* Element `index` of a plain array of F32, F16 or BF16. */
float load_element(__global const void *base, const ulong index, const uint dtype) {
  if (dtype == F32) return ((__global const float *)base)[index];
  const ushort bits = ((__global const ushort *)base)[index];
  return dtype == F16 ? f16_value(bits) : bf16_value(bits);
}

void store_element(__global void *base, const ulong index, const uint dtype, const float value) {
  if (dtype == F32) {
    ((__global float *)base)[index] = value;
  } else {
    ((__global ushort *)base)[index] = dtype == F16 ? f16_bits(value) : bf16_bits(value);
  }
}
