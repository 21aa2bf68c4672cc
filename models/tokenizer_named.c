/* GGUF files name their pre-tokenizer instead of carrying it. The patterns are those of the
 * published tokenizers; where several follow each other, each cuts what the one before left. */
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_steps.h"

#define CONTRACTION       "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD              "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SYMBOLS           " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define SPACES            "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER             "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER             "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CAMEL_LOWER       "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+"
#define CAMEL_UPPER       "[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*"
#define GPT2              "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define QWEN2             CONTRACTION "|" WORD "|\\p{N}|" SYMBOLS "|" SPACES
#define DIGITS_OF_3_LLAMA CONTRACTION "|" WORD "|\\p{N}{1,3}|" SYMBOLS "|" SPACES
#define BLOOM                                                                                      \
  " ?[^(\\s|.,!?\xe2\x80\xa6\xe3\x80\x82\xef\xbc\x8c\xe3\x80\x81\xe0\xa5\xa4\xdb\x94\xd8\x8c)]+"
#define DEEPSEEK_CJK                                                                               \
  "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+"
#define DEEPSEEK_LETTERS                                                                           \
  "\\s?[A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"              \
  "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"           \
  "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"   \
  "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}"    \
  "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"                   \
  "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}"                   \
  "\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"           \
  "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"          \
  "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"                   \
  "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}"           \
  "\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}"                     \
  "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}"           \
  "\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}"                    \
  "\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}"                   \
  "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}"                   \
  "\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}"             \
  "\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}]+"
#define DEEPSEEK_SYMBOLS                                                                           \
  "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+"

const char cs_gpt2_pattern[] = GPT2;

#define MAX_PATTERNS 6

/* The byte alphabet comes last, unless BYTES_HERE puts it before the last patterns. */
#define BYTES_HERE ""

typedef struct recipe {
  const char *patterns[MAX_PATTERNS];
  bool nfc;
} recipe;

static const recipe gpt2 = {.patterns = {GPT2}};
static const recipe llama3 = {.patterns = {DIGITS_OF_3_LLAMA}};
static const recipe qwen2 = {.patterns = {QWEN2}, .nfc = true};
static const recipe qwen35 = {.patterns = {CONTRACTION
                                           "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
                                           "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES},
                              .nfc = true};
static const recipe starcoder = {.patterns = {"\\p{N}", GPT2}};
static const recipe command_r = {.patterns = {"\\p{N}", GPT2}, .nfc = true};
static const recipe tiktoken = {.patterns = {QWEN2}};
static const recipe falcon = {
    .patterns = {"[\\p{P}$+<=>^`|~]+", GPT2, BYTES_HERE, "\\p{N}+", "[0-9][0-9][0-9]"}};
static const recipe usual = {
    .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}};
static const recipe deepseek_llm = {
    .patterns = {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_SYMBOLS, "\\s+$", DEEPSEEK_CJK, "\\p{N}"}};
static const recipe deepseek_coder = {
    .patterns = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}};
static const recipe deepseek_v3 = {
    .patterns = {"\\p{N}{1,3}",
                 "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
                 "[!\"#$%&'()*+,\\-./"
                 ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                 "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES}};
static const recipe bloom = {.patterns = {BLOOM}};
static const recipe viking = {.patterns = {BLOOM, "\\p{N}"}};
static const recipe tekken = {
    .patterns = {CAMEL_LOWER "|" CAMEL_UPPER "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES}};
static const recipe gpt4o = {.patterns = {CAMEL_LOWER CONTRACTION
                                          "?|" CAMEL_UPPER CONTRACTION
                                          "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES}};

/* Names are those that converters write; `whole`: a piece that is a token is not cut (HF's
 * ignore_merges); `bos`: the file's add_bos_token is true when absent. */
static const struct {
  const char *name;
  const recipe *recipe;
  bool whole;
  bool bos;
} names[] = {
    {"default", &usual, false, false},
    {"gpt-2", &gpt2, false, false},
    {"phi-2", &gpt2, false, false},
    {"mpt", &gpt2, false, false},
    {"olmo", &gpt2, false, false},
    {"jais", &gpt2, false, false},
    {"trillion", &gpt2, false, false},
    {"exaone4", &gpt2, false, false},
    {"gigachat", &gpt2, false, false},
    {"a.x-4.0", &gpt2, false, false},
    {"mellum", &gpt2, false, false},
    {"modern-bert", &gpt2, false, false},
    {"granite-docling", &gpt2, false, false},
    {"roberta-bpe", &gpt2, false, false},
    {"jina-es", &gpt2, false, false},
    {"jina-de", &gpt2, false, false},
    {"jina-v2-es", &gpt2, false, false},
    {"jina-v2-de", &gpt2, false, false},
    {"jina-v2-code", &gpt2, false, false},
    {"llama-bpe", &llama3, true, true}, /* what converters write */
    {"llama3", &llama3, true, true},
    {"llama-v3", &llama3, true, true},
    {"falcon3", &llama3, true, true},
    {"falcon-h1", &llama3, true, true},
    {"pixtral", &llama3, true, true},
    {"midm-2.0", &llama3, true, true},
    {"lfm2", &llama3, true, true},
    {"dbrx", &llama3, false, false},
    {"smaug-bpe", &llama3, false, false},
    {"chatglm-bpe", &llama3, false, false},
    {"glm4", &llama3, true, false},
    {"qwen2", &qwen2, false, false},
    {"deepseek-r1-qwen", &tiktoken, false, false},
    {"stablelm2", &tiktoken, false, false},
    {"hunyuan", &tiktoken, false, false},
    {"megrez", &tiktoken, false, false},
    {"solar-open", &tiktoken, false, false},
    {"qwen35", &qwen35, false, false},
    {"starcoder", &starcoder, false, false},
    {"refact", &starcoder, false, false},
    {"command-r", &command_r, false, false},
    {"smollm", &starcoder, false, false},
    {"codeshell", &starcoder, false, false},
    {"exaone", &starcoder, false, false},
    {"minerva-7b", &starcoder, false, false},
    {"mellum2", &starcoder, false, false},
    {"falcon", &falcon, false, false},
    {"deepseek-llm", &deepseek_llm, false, false},
    {"deepseek-coder", &deepseek_coder, false, false},
    {"deepseek-v3", &deepseek_v3, false, false},
    {"hunyuan-dense", &deepseek_v3, false, false},
    {"bloom", &bloom, false, false},
    {"poro-chat", &bloom, false, false},
    {"gpt3-finnish", &bloom, false, false},
    {"viking", &viking, false, false},
    {"tekken", &tekken, true, true},
    {"gpt-4o", &gpt4o, false, false},
    {"llama4", &gpt4o, false, false},
    {"kanana2", &gpt4o, false, false},
};

static cs_status add_step(cs_steps *steps, uint32_t kind, cs_error *error) {
  const cs_step step = {.kind = kind};
  return cs_steps_add(steps, &step, error);
}

static cs_status follow(const recipe *r, cs_steps *out, cs_error *error) {
  bool as_bytes = false;
  cs_status status = CS_OK;
  for (size_t i = 0; i < MAX_PATTERNS && r->patterns[i] && status == CS_OK; i++) {
    const bool bytes_here = r->patterns[i][0] == '\0';
    as_bytes = as_bytes || bytes_here;
    status = bytes_here ? add_step(out, CS_STEP_BYTES, error)
                        : cs_steps_add_split(out, r->patterns[i], CS_SPLIT_ISOLATED, false, error);
  }
  return status == CS_OK && !as_bytes ? add_step(out, CS_STEP_BYTES, error) : status;
}

cs_status cs_pre_tokenizer_named(const char *name, size_t bytes, cs_steps *normalizers,
                                 cs_steps *out, bool *ignore_merges, bool *add_bos,
                                 cs_error *error) {
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (strlen(names[i].name) != bytes || memcmp(names[i].name, name, bytes) != 0) continue;
    *ignore_merges = names[i].whole;
    *add_bos = names[i].bos;
    const cs_status status =
        names[i].recipe->nfc ? add_step(normalizers, CS_STEP_NFC, error) : CS_OK;
    return status == CS_OK ? follow(names[i].recipe, out, error) : status;
  }
  return cs_error_set(error, CS_UNSUPPORTED, "pre-tokenizer \"%.*s\" is not known",
                      bytes > 40 ? 40 : (int)bytes, name);
}

/* A run of characters that is kept in one piece is the same as each character with its like. */
static bool is_same_split(const cs_step *a, const cs_step *b) {
  if (a->invert || b->invert) return false;
  if (a->behaviour == b->behaviour) return cs_pattern_equal(a->pattern, b->pattern);
  return a->behaviour == CS_SPLIT_CONTIGUOUS && b->behaviour == CS_SPLIT_ISOLATED &&
         cs_pattern_repeats(a->pattern, b->pattern);
}

/* Of steps that names stand for: a split, or one that is nothing but its kind. */
static bool are_same(const cs_steps *a, const cs_steps *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++) {
    const cs_step *x = &a->list[i], *y = &b->list[i];
    if (x->kind != y->kind || (x->kind == CS_STEP_SPLIT && !is_same_split(x, y))) return false;
  }
  return true;
}

cs_status cs_pre_tokenizer_name_of(const cs_steps *normalizers, const cs_steps *steps,
                                   bool ignore_merges, const char **name) {
  cs_status status = CS_OK;
  *name = NULL;
  for (size_t i = 0; status == CS_OK && !*name && i < sizeof names / sizeof names[0]; i++) {
    if (names[i].whole != ignore_merges ||
        (i > 0 && names[i].recipe == names[i - 1].recipe && names[i].whole == names[i - 1].whole))
      continue;
    cs_steps own_normalizers = {0}, own = {0};
    if (names[i].recipe->nfc) status = add_step(&own_normalizers, CS_STEP_NFC, NULL);
    if (status == CS_OK) status = follow(names[i].recipe, &own, NULL);
    if (status == CS_OK && are_same(normalizers, &own_normalizers) && are_same(steps, &own))
      *name = names[i].name;
    cs_steps_finish(&own_normalizers);
    cs_steps_finish(&own);
  }
  return status;
}
