/* KV of 8 bits (consort/kv.h): E4M3, bit for bit what consort/half.h does, and whole numbers whose
 * rows have a scale. Numbers of formats as CS_DTYPE_* has them. */
#define I8 4u
#define F8 8u

uchar e4m3_bits(const float value) {
  const uint bits = as_uint(value);
  const uint sign = bits >> 24 & 0x80u;
  const uint magnitude = bits & 0x7fffffffu;
  const uint small = as_uint(as_float(magnitude) + 0x1p14f) - 0x46800000u;
  const uint normal = (magnitude + 0x7ffffu + (magnitude >> 20 & 1u) - 0x3c000000u) >> 20;
  uint byte = magnitude < 0x3c800000u ? small : normal;
  byte = magnitude >= 0x43e00000u ? 0x7eu : byte;
  byte = magnitude > 0x7f800000u ? 0x7fu : byte;
  return (uchar)(sign | byte);
}

float e4m3_value(const uchar byte) {
  const uint magnitude = byte & 0x7fu;
  const uint small = as_uint((float)magnitude * 0x1p-9f);
  uint bits = magnitude < 8 ? small : (magnitude << 20) + 0x3c000000u;
  bits = magnitude == 0x7fu ? 0x7fc00000u : bits;
  return as_float((uint)(byte & 0x80u) << 24 | bits);
}
