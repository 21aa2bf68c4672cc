/* Only the second byte of a character has a range that depends on the first (table 3-7 of the
 * Unicode standard); knowing it leaves plain continuation bytes. */
#include "models/utf8.h"

int cs_utf8_character(const uint8_t *bytes, size_t n) {
  const uint8_t first = bytes[0];
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return CS_UTF8_INVALID;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const uint8_t lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < length; i++) {
    if (i == n) return CS_UTF8_INCOMPLETE;
    if (bytes[i] < (i == 1 ? lowest : 0x80) || bytes[i] > (i == 1 ? highest : 0xbf))
      return CS_UTF8_INVALID;
  }
  return (int)length;
}

uint32_t cs_utf8_code_point(const char *bytes, int length) {
  const uint8_t *const b = (const uint8_t *)bytes;
  if (length <= 1) return b[0];
  uint32_t value = b[0] & (0x7fu >> length);
  for (int i = 1; i < length; i++)
    value = value << 6 | (b[i] & 0x3fu);
  return value;
}

uint32_t cs_utf8_write(uint32_t c, char out[4]) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  const uint32_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (uint32_t i = length - 1; i > 0; i--) {
    out[i] = (char)(0x80 | (c & 0x3f));
    c >>= 6;
  }
  out[0] = (char)((0xf00u >> length & 0xff) | c);
  return length;
}

size_t cs_utf8_run(const char *bytes, size_t n) {
  size_t at = 0;
  while (at < n) {
    const int length = cs_utf8_character((const uint8_t *)bytes + at, n - at);
    if (length <= 0) break;
    at += (size_t)length;
  }
  return at;
}
