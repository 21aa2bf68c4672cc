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
