/* Chat templates: what each construct means, what is refused, and the limits that hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "models/chat/chat.h"

#define MESSAGES                                                                                   \
  "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\" Hi \"},"     \
  "{\"role\":\"assistant\",\"content\":\"Hello\"},{\"role\":\"user\",\"content\":\"A\\u00e9\\n\"}" \
  "]"

static cs_status render(const char *text, const char *variables, char **out, cs_error *error) {
  cs_chat_template *chat;
  size_t bytes;
  *out = NULL;
  cs_status status = cs_chat_template_create(text, strlen(text), &chat, error);
  if (status != CS_OK) return status;
  const cs_chat_input input = {.messages_json = MESSAGES,
                               .variables_json = variables,
                               .bos = "<s>",
                               .eos = "</s>",
                               .now = 86400 * 365,
                               .add_generation_prompt = true};
  status = cs_chat_render(chat, &input, out, &bytes, error);
  if (status == CS_OK) assert_int_equal(bytes, strlen(*out));
  cs_chat_template_destroy(chat);
  return status;
}

static void assert_renders(const char *text, const char *expected) {
  cs_error error = CS_ERROR_INIT;
  char *out;
  if (render(text, NULL, &out, &error) != CS_OK) fail_msg("%s: %s", text, error.message);
  assert_string_equal(out, expected);
  free(out);
}

static void assert_fails(const char *text, cs_status status, const char *reason) {
  cs_error error = CS_ERROR_INIT;
  char *out;
  const cs_status got = render(text, NULL, &out, &error);
  if (got != status || !strstr(error.message, reason) || strchr(error.message, '\n'))
    fail_msg("%.60s: status %d, \"%s\" does not say \"%s\"", text, got, error.message, reason);
  assert_null(out);
}

static void white_space_goes_as_transformers_has_it(void **state) {
  (void)state;
  assert_renders("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc");
  assert_renders("a {%- if true -%} b {%- endif %} c", "ab c");
  assert_renders("x {{- 1 -}} y", "x1y");
  assert_renders("  {%+ if true %}a{% endif %}", "  a");
  assert_renders("a\n{# note #}\nb", "a\nb");
  assert_renders("{{ '{%' }}\n\n", "{%\n");
  assert_renders("{{ 'a' }}\n{{ 'b' }}", "a\nb");
  assert_renders("{% if true +%}\na{% endif %}", "\na");
}

static void statements_do_what_jinja_does(void **state) {
  (void)state;
  assert_renders("{% for m in messages %}{{ loop.index }}{{ m.role[0] }}{{ ',' if not loop.last }}"
                 "{% endfor %}",
                 "1s,2u,3a,4u");
  assert_renders("{% for m in messages if m.role == 'user' %}{{ m['content'] | trim }}{% else %}x"
                 "{% endfor %}",
                 "HiA\xc3\xa9");
  assert_renders("{% for m in [] %}x{% else %}none{% endfor %}", "none");
  assert_renders("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
                 "a=1;b=2;");
  assert_renders("{% set x = 1 %}{% for i in range(3) %}{% set x = i %}{% endfor %}{{ x }}", "1");
  assert_renders("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}"
                 "{% endfor %}{{ ns.n }}",
                 "6");
  assert_renders("{% macro f(a, b='y') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(b=2, a=3) }}"
                 "{{ f(*[4, 5]) }}",
                 "<1y><32><45>");
  assert_renders("{% set a, b = 1, 2 %}{{ a }}{{ b }}", "12");
  assert_renders("{% set x %}in {{ 1 }}{% endset %}[{{ x }}]", "[in 1]");
  assert_renders("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
                 "{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                 "013");
  assert_renders("{% generation %}x{% endgeneration %}", "x");
  assert_renders("{% filter upper %}ab{% endfilter %}", "AB");
  assert_renders("{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}x{% endcall %}",
                 "(x)");
  assert_renders("{% if 0 %}a{% elif '' %}b{% elif none %}c{% else %}d{% endif %}", "d");
}

static void expressions_have_pythons_values(void **state) {
  (void)state;
  assert_renders(
      "{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 1 / 2 }} {{ 2 ** 10 }}",
      "7 3 -4 2 0.5 1024");
  assert_renders("{{ 'a' ~ 1 ~ none }} {{ 'ab' * 2 }} {{ 1.0 }} {{ 1e20 }} {{ true }}",
                 "a1None abab 1.0 1e+20 True");
  assert_renders("{{ [1, 'a', none, {'k': [true]}] }}", "[1, 'a', None, {'k': [True]}]");
  assert_renders("{{ (1, 2) }} {{ \"it's\" }} {{ ['it\\'s'] }}", "(1, 2) it's [\"it's\"]");
  assert_renders("{{ 'abcd'[1:3] }} {{ 'abcd'[::-1] }} {{ [1,2,3][-1] }} {{ [1,2,3,4][:-1] }}",
                 "bc dcba 3 [1, 2, 3]");
  assert_renders("{{ 'h\xc3\xa9llo'[1] }}{{ 'h\xc3\xa9llo' | length }}", "\xc3\xa9"
                                                                         "5");
  assert_renders("{{ 'a' in 'cat' }} {{ 3 not in [1] }} {{ 'x' in {'x': 1} }} {{ 1 < 2 < 3 }}",
                 "True True True True");
  assert_renders("{{ missing }}|{{ missing is defined }}|{{ messages[0].nope is undefined }}",
                 "|False|True");
  assert_renders("{{ 'a' if false }}|{{ 1 if 0 else 2 }}|{{ not 1 == 2 }}", "|2|True");
  assert_renders("{{ messages[0].get('x', 'y') }} {{ messages[0].keys() | list }}",
                 "y ['role', 'content']");
  assert_renders("{{ ' x '.strip() }}{{ 'a-b-c'.split('-')[1] }}{{ 'a b'.split() | length }}",
                 "xb2");
  assert_renders("{{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.startswith(('x', 'a')) }}",
                 "['a,b', 'c'] True");
  assert_renders("{{ '%s-%02d' % ('a', 7) }} {{ '{} {0}'.format(1) }}", "a-07 1 1");
}

static void filters_and_tests_are_known(void **state) {
  (void)state;
  assert_renders("{{ {'b': 1, 'a': [1.5, '\xc3\xa9\"']} | tojson }}",
                 "{\"b\": 1, \"a\": [1.5, \"\xc3\xa9\\\"\"]}");
  assert_renders("{{ {'a': [], 'b': {'c': 1}} | tojson(indent=2) }}",
                 "{\n  \"a\": [],\n  \"b\": {\n    \"c\": 1\n  }\n}");
  assert_renders("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2");
  assert_renders(
      "{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join('+') }}",
      "system+assistant");
  assert_renders("{{ ['b', 'A', 'c'] | sort | join }}{{ {'b': 1, 'a': 2} | dictsort }}",
                 "Abc[('a', 2), ('b', 1)]");
  assert_renders("{{ none | default('x') }}{{ none | default('x', true) }}{{ y | d('z') }}",
                 "Nonexz");
  assert_renders("{{ 'aXa' | replace('a', 'b') | lower }} {{ 'hello world' | title }}",
                 "bxb Hello World");
  assert_renders(
      "{{ [3, 1, 2] | max }}{{ [1, 2] | sum }}{{ [1, 1] | unique | list }}{{ '42' | int + 1 }}",
      "33[1]43");
  assert_renders("{{ 'a\nb' | indent(2) }}|{{ [1, 2] | reverse | list }}", "a\n  b|[2, 1]");
  assert_renders("{{ 1 is number and 'a' is string and {} is mapping and [] is iterable }}",
                 "True");
  assert_renders("{{ 4 is even }} {{ 4 is divisibleby 3 }} {{ none is none }} {{ 1 is not none }}",
                 "True False True True");
  assert_renders("{{ strftime_now('%d %b %Y') }}", "01 Jan 1971");
  assert_renders("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools is none }}",
                 "<s></s>TrueTrue");
}

static void variables_of_the_caller_are_seen(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  char *out;
  assert_int_equal(render("{{ enable_thinking }}{{ bos_token }}",
                          "{\"enable_thinking\": false, \"bos_token\": \"B\"}", &out, &error),
                   CS_OK);
  assert_string_equal(out, "FalseB");
  free(out);
}

static void what_is_wrong_is_said_with_its_line(void **state) {
  (void)state;
  assert_fails("a\n{{ 1 + }}", CS_CORRUPT, "line 2");
  assert_fails("{% if 1 %}x", CS_CORRUPT, "not closed");
  assert_fails("{{ 'abc }}", CS_CORRUPT, "no end");
  assert_fails("{% include 'x' %}", CS_UNSUPPORTED, "\"include\"");
  assert_fails("{{ 1 | nothing }}", CS_UNSUPPORTED, "filter \"nothing\"");
  assert_fails("{{ 1 is odder }}", CS_UNSUPPORTED, "test \"odder\"");
  assert_fails("\n\n{{ x.y }}", CS_INVALID_ARGUMENT, "line 3");
  assert_fails("{{ x() }}", CS_INVALID_ARGUMENT, "\"x\" is undefined");
  assert_fails("{{ 1 + 'a' }}", CS_INVALID_ARGUMENT, "do not go together");
  assert_fails("{{ raise_exception('roles must\nalternate') }}", CS_INVALID_ARGUMENT,
               "roles must alternate");
  assert_fails("{{ messages.append(1) }}", CS_INVALID_ARGUMENT, "\"append\" is undefined");
  assert_fails("{{ 1 // 0 }}", CS_INVALID_ARGUMENT, "division by zero");
}

static void no_template_runs_for_ever_or_fills_memory(void **state) {
  (void)state;
  assert_fails("{% for i in range(100000000) %}{% endfor %}", CS_OUT_OF_RANGE, "more");
  assert_fails("{% for a in range(3000) %}{% for b in range(3000) %}x{% endfor %}{% endfor %}",
               CS_OUT_OF_RANGE, "more");
  assert_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", CS_OUT_OF_RANGE, "deeper");
  assert_fails("{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"
               "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
               CS_OUT_OF_RANGE, "memory");
  assert_fails("{{ 'a' * 100000000000 }}", CS_OUT_OF_RANGE, "more");
  assert_renders("{% set ns = namespace() %}{% set ns.me = ns %}{{ (ns | tojson) | length > 9 }}",
                 "True");
  /* Two lists that share themselves: comparing them item by item would never end. */
  assert_renders("{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}"
                 "{% for i in range(50) %}{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}"
                 "{% endfor %}{{ a.x == b.x }}",
                 "False");
  assert_fails("{% set s = 'aaaaaaaaaaaaaaaa' * 1000000 %}{% for i in range(1000000) %}"
               "{{ 'b' in s }}{% endfor %}",
               CS_OUT_OF_RANGE, "more");
  enum { DEEP = 1000 };
  char deep[2 * DEEP + 6] = "{{";
  memset(deep + 2, '(', DEEP);
  deep[2 + DEEP] = '1';
  memset(deep + 3 + DEEP, ')', DEEP);
  memcpy(deep + 3 + 2 * DEEP, "}}", 3);
  assert_fails(deep, CS_CORRUPT, "too deep");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(white_space_goes_as_transformers_has_it),
      cmocka_unit_test(statements_do_what_jinja_does),
      cmocka_unit_test(expressions_have_pythons_values),
      cmocka_unit_test(filters_and_tests_are_known),
      cmocka_unit_test(variables_of_the_caller_are_seen),
      cmocka_unit_test(what_is_wrong_is_said_with_its_line),
      cmocka_unit_test(no_template_runs_for_ever_or_fills_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
