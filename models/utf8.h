/* One character of UTF-8 at a time. */
#ifndef MODELS_UTF8_H
#define MODELS_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define CS_UTF8_INVALID    0    /* no character begins like this */
#define CS_UTF8_INCOMPLETE (-1) /* the bytes so far may become one */

/* Looks at the n > 0 bytes from `bytes` on. Returns the length, 1 to 4, of the character that they
 * begin with, or one of the two above. Overlong forms, surrogates and values above U+10FFFF are
 * invalid (RFC 3629). */
int cs_utf8_character(const uint8_t *bytes, size_t n);

/* The code point of a well-formed character of that length. */
uint32_t cs_utf8_code_point(const char *bytes, int length);
/* Writes a code point (up to U+10FFFF) and returns its length. */
uint32_t cs_utf8_write(uint32_t code_point, char out[4]);
/* How many of the n bytes are well-formed characters, from the first on. */
size_t cs_utf8_run(const char *bytes, size_t n);

#endif
