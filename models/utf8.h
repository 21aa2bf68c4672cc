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

#endif
