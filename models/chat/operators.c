/* What operators do with two values, as Python does it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/chat/run.h"

static bool is_number(cs_chat_value v) {
  return v.type == CS_CHAT_INT || v.type == CS_CHAT_FLOAT || v.type == CS_CHAT_BOOL;
}

static int64_t to_int(cs_chat_value v) {
  return v.type == CS_CHAT_BOOL ? v.boolean : v.integer;
}

static double to_double(cs_chat_value v) {
  return v.type == CS_CHAT_FLOAT ? v.number : (double)to_int(v);
}

static cs_chat_value wrong_types(cs_chat_run *run) {
  return cs_chat_fail(run, CS_INVALID_ARGUMENT,
                      "an operator between values that do not go together");
}

static cs_chat_value join_texts(cs_chat_run *run, cs_chat_value a, cs_chat_value b) {
  cs_chat_buffer out = {.arena = run->arena};
  cs_chat_print(&out, a);
  cs_chat_print(&out, b);
  return cs_chat_step(run, out.bytes / 64) ? cs_chat_made(run, cs_chat_take(&out))
                                           : (cs_chat_value){0};
}

static cs_chat_value join_lists(cs_chat_run *run, const cs_chat_list *a, const cs_chat_list *b) {
  cs_chat_value joined = cs_chat_made(run, cs_chat_new_list(run->arena));
  const cs_chat_list *const parts[] = {a, b};
  for (size_t k = 0; k < 2; k++)
    for (size_t i = 0; i < parts[k]->n && cs_chat_step(run, 1); i++)
      if (!cs_chat_append(run->arena, joined.list, parts[k]->items[i]))
        return cs_chat_made(run, (cs_chat_value){0});
  return joined;
}

static cs_chat_value repeat(cs_chat_run *run, const cs_chat_string *s, int64_t n) {
  cs_chat_buffer out = {.arena = run->arena};
  for (int64_t i = 0; i < n && s->bytes > 0 && !out.failed && cs_chat_step(run, 1); i++)
    cs_chat_write(&out, s->data, s->bytes);
  return run->status == CS_OK ? cs_chat_made(run, cs_chat_take(&out)) : (cs_chat_value){0};
}

static cs_chat_value integers(cs_chat_run *run, cs_chat_op op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
  case CS_OP_ADD:
    overflow = __builtin_add_overflow(a, b, &result);
    break;
  case CS_OP_SUBTRACT:
    overflow = __builtin_sub_overflow(a, b, &result);
    break;
  case CS_OP_MULTIPLY:
    overflow = __builtin_mul_overflow(a, b, &result);
    break;
  default: /* floor division and its remainder */
    if (b == 0) return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a division by zero");
    overflow = a == INT64_MIN && b == -1;
    if (overflow) break;
    result = op == CS_OP_MODULO ? a % b : a / b;
    if (a % b != 0 && (a < 0) != (b < 0)) result += op == CS_OP_MODULO ? b : -1;
  }
  if (overflow) return cs_chat_fail(run, CS_OUT_OF_RANGE, "a number is too large");
  return cs_chat_int(result);
}

static cs_chat_value power(cs_chat_run *run, cs_chat_value a, cs_chat_value b) {
  if (a.type == CS_CHAT_FLOAT || b.type == CS_CHAT_FLOAT || to_int(b) < 0)
    return cs_chat_float(pow(to_double(a), to_double(b)));
  cs_chat_value result = cs_chat_int(1);
  const int64_t base = to_int(a);
  if (to_int(b) > 64 && base != 0 && base != 1 && base != -1)
    return cs_chat_fail(run, CS_OUT_OF_RANGE, "a number is too large");
  const int64_t n = to_int(b) > 64 ? 64 + to_int(b) % 2 : to_int(b);
  for (int64_t i = 0; i < n && run->status == CS_OK; i++)
    result = integers(run, CS_OP_MULTIPLY, result.integer, base);
  return result;
}

static cs_chat_value floats(cs_chat_run *run, cs_chat_op op, double a, double b) {
  switch (op) {
  case CS_OP_ADD:
    return cs_chat_float(a + b);
  case CS_OP_SUBTRACT:
    return cs_chat_float(a - b);
  case CS_OP_MULTIPLY:
    return cs_chat_float(a * b);
  default:
    if (b == 0) return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a division by zero");
    if (op == CS_OP_DIVIDE) return cs_chat_float(a / b);
    return cs_chat_float(op == CS_OP_FLOOR_DIVIDE ? floor(a / b) : a - b * floor(a / b));
  }
}

static cs_chat_value numbers(cs_chat_run *run, cs_chat_op op, cs_chat_value a, cs_chat_value b) {
  if (op == CS_OP_POWER) return power(run, a, b);
  if (a.type == CS_CHAT_FLOAT || b.type == CS_CHAT_FLOAT || op == CS_OP_DIVIDE)
    return floats(run, op, to_double(a), to_double(b));
  return integers(run, op, to_int(a), to_int(b));
}

static cs_chat_value ordered(cs_chat_run *run, cs_chat_op op, cs_chat_value a, cs_chat_value b) {
  bool has_order;
  const int order = cs_chat_compare(a, b, &has_order);
  if (!has_order) return wrong_types(run);
  switch (op) {
  case CS_OP_LESS:
    return cs_chat_bool(order < 0);
  case CS_OP_LESS_EQUAL:
    return cs_chat_bool(order <= 0);
  case CS_OP_GREATER:
    return cs_chat_bool(order > 0);
  default:
    return cs_chat_bool(order >= 0);
  }
}

cs_chat_value cs_chat_binary(cs_chat_run *run, cs_chat_op op, cs_chat_value a, cs_chat_value b) {
  if (!cs_chat_look(run, a) || !cs_chat_look(run, b)) return a;
  switch (op) {
  case CS_OP_EQUAL:
    return cs_chat_bool(cs_chat_equal(a, b));
  case CS_OP_NOT_EQUAL:
    return cs_chat_bool(!cs_chat_equal(a, b));
  case CS_OP_IN:
    return cs_chat_bool(cs_chat_contains(run, b, a));
  case CS_OP_NOT_IN:
    return cs_chat_bool(!cs_chat_contains(run, b, a));
  case CS_OP_CONCAT:
    return join_texts(run, a, b);
  case CS_OP_LESS:
  case CS_OP_LESS_EQUAL:
  case CS_OP_GREATER:
  case CS_OP_GREATER_EQUAL:
    return ordered(run, op, a, b);
  default:
    break;
  }
  if (is_number(a) && is_number(b)) return numbers(run, op, a, b);
  if (op == CS_OP_ADD && a.type == CS_CHAT_STRING && b.type == CS_CHAT_STRING)
    return join_texts(run, a, b);
  if (op == CS_OP_ADD && a.type == CS_CHAT_LIST && b.type == CS_CHAT_LIST)
    return join_lists(run, a.list, b.list);
  if (op == CS_OP_MULTIPLY && a.type == CS_CHAT_STRING && b.type == CS_CHAT_INT)
    return repeat(run, a.string, b.integer);
  if (op == CS_OP_MODULO && a.type == CS_CHAT_STRING) {
    const bool several = b.type == CS_CHAT_LIST && b.tuple;
    const cs_chat_arguments values = {several ? b.list->items : &b, several ? b.list->n : 1, NULL};
    return cs_chat_format(run, a.string, values);
  }
  return wrong_types(run);
}

/* One conversion at `at`, a '%' before it; returns where the format goes on, NULL for one that is
 * not known. */
static const char *convert(const char *at, cs_chat_value value, cs_chat_buffer *out) {
  char spec[24] = "%", text[400];
  size_t n = 1;
  while (*at && strchr("-+ 0#123456789.", *at) && n < 8)
    spec[n++] = *at++;
  if (strtol(spec + strspn(spec, "%-+ 0#"), NULL, 10) > 99) return NULL;
  switch (*at) {
  case 's':
    cs_chat_print(out, value);
    return at + 1;
  case 'd':
  case 'i':
    if (!is_number(value)) return NULL;
    strcpy(spec + n, "lld");
    snprintf(text, sizeof text, spec,
             value.type == CS_CHAT_FLOAT ? (long long)value.number : (long long)to_int(value));
    break;
  case 'f':
  case 'g':
  case 'e':
    if (!is_number(value)) return NULL;
    spec[n] = *at;
    snprintf(text, sizeof text, spec, to_double(value));
    break;
  default:
    return NULL;
  }
  cs_chat_write_text(out, text);
  return at + 1;
}

cs_chat_value cs_chat_format(cs_chat_run *run, const cs_chat_string *format,
                             cs_chat_arguments values) {
  cs_chat_buffer out = {.arena = run->arena};
  size_t used = 0;
  for (const char *at = format->data; at < format->data + format->bytes;) {
    if (*at != '%') {
      cs_chat_write(&out, at++, 1);
    } else if (at[1] == '%') {
      cs_chat_write(&out, at, 1);
      at += 2;
    } else {
      at = used < values.n ? convert(at + 1, values.list[used++], &out) : NULL;
      if (!at)
        return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a format that does not fit its values");
    }
    if (!cs_chat_step(run, 1)) return (cs_chat_value){0};
  }
  return cs_chat_made(run, cs_chat_take(&out));
}
