#!/usr/bin/env python3
"""Makes tests/data/tokenizers: small vocabularies, strings, and a hash of the ids that Hugging Face's
`tokenizers` library gives for each string.

    python3 -m venv V && V/bin/pip install tokenizers sentencepiece
    V/bin/python tests/reference/tokenizers_data.py OUT TEXT...      trains on TEXT, writes OUT
    V/bin/python tests/reference/tokenizers_data.py --check FOLDER   only compares the hashes again

One vocabulary of bytes serves all published pre-tokenizers: it is trained without any, so that it has
pieces that cross every border a pattern could draw, and a wrong border shows in the ids.
"""
import json
import random
import struct
import sys
import tempfile
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK = "[一-龥ࠀ-一가-퟿]+"
LETTERS = (r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}"
           r"-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}"
           r"-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}"
           r"-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}"
           r"\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}"
           r"-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}"
           r"-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}"
           r"\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}"
           r"\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}"
           r"\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}"
           r"-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}"
           r"\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}"
           r"-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+")
V3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
      "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER = ["<tool>", "  "]


def split(pattern, behaviour="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behaviour, "invert": invert}


def byte_level(use_regex, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


NFC = {"type": "NFC"}
# name: what is set in the vocabulary of bytes, and tokenizer.ggml.pre where GGUF can say the same
BYTES = {
    "gpt-2": (byte_level(True), None, {}, "gpt-2 mpt olmo jais"),
    "llama3": (sequence(split(LLAMA3), byte_level(False)), None, {"ignore_merges": True},
               "llama-bpe llama3 llama-v3 pixtral"),
    "qwen2": (sequence(split(QWEN2), byte_level(False)), NFC, {}, "qwen2"),
    "deepseek-llm": (sequence(split("[\r\n]"), split(LETTERS), split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split("\\s+$"),
                              split(CJK), digits(True), byte_level(False)), None, {}, "deepseek-llm"),
    "deepseek-coder": (sequence(split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), split(CJK), digits(True),
                                byte_level(False)), None, {}, "deepseek-coder"),
    "deepseek-v3": (sequence(split("\\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(V3), byte_level(False)), None, {},
                    "deepseek-v3"),
    "falcon": (sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True), digits(False),
                        split("[0-9][0-9][0-9]")), None, {}, "falcon"),
    "starcoder": (sequence(digits(True), byte_level(True)), None, {}, "starcoder refact smollm codeshell"),
    "command-r": (sequence(digits(True), byte_level(True)), NFC, {}, "command-r"),
    "tekken": (sequence(split(TEKKEN), byte_level(False)), None, {"ignore_merges": True}, "tekken"),
    "gpt-4o": (sequence(split(GPT4O), byte_level(False)), None, {}, "gpt-4o llama4"),
    "bloom": (sequence(split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), byte_level(False)), None, {}, "bloom"),
    "prefix": (byte_level(True, prefix=True), {"type": "NFKC"}, {}, ""),
    "lower": (sequence({"type": "WhitespaceSplit"}, split("[aeiou]", "MergedWithPrevious"), byte_level(False)),
              {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                                                   {"type": "Strip", "strip_left": True, "strip_right": False}]}, {}, ""),
    "words": (sequence({"type": "Whitespace"}, split("[.!?]+", "MergedWithNext"), byte_level(False)),
              {"type": "NFKD"}, {}, ""),
    "contiguous": (sequence(split("\\p{L}", "Contiguous"), split("\\d", "Removed"), split("x+", "Isolated", True),
                            byte_level(False)),
                   {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {}, ""),
}

RANGES = [(0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x36f), (0x370, 0x3ff), (0x400, 0x52f), (0x531, 0x58f), (0x590, 0x5ff),
          (0x600, 0x6ff), (0x700, 0x7bf), (0x900, 0x97f), (0x980, 0x9ff), (0xa00, 0xaff), (0xb00, 0xbff), (0xc00, 0xcff),
          (0xd00, 0xdff), (0xe00, 0xe7f), (0xe80, 0xeff), (0xf00, 0xfff), (0x1000, 0x109f), (0x10a0, 0x10ff),
          (0x1100, 0x11ff), (0x1200, 0x137f), (0x13a0, 0x13ff), (0x1400, 0x167f), (0x1680, 0x16ff), (0x1780, 0x17ff),
          (0x1800, 0x18af), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x20cf), (0x2100, 0x218f), (0x2190, 0x23ff),
          (0x2460, 0x25ff), (0x2600, 0x27bf), (0x2c00, 0x2dff), (0x2e80, 0x2fdf), (0x3000, 0x30ff), (0x3100, 0x33ff),
          (0x3400, 0x3500), (0x4e00, 0x9fff), (0xa000, 0xa4cf), (0xa640, 0xa69f), (0xa720, 0xabff), (0xac00, 0xd7ff),
          (0xe000, 0xe010), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xfeff), (0xff00, 0xffef), (0x10000, 0x100ff),
          (0x10300, 0x104ff), (0x10800, 0x109ff), (0x11000, 0x113ff), (0x12000, 0x120ff), (0x13000, 0x130ff),
          (0x16800, 0x16aff), (0x1b000, 0x1b0ff), (0x1d000, 0x1d1ff), (0x1d400, 0x1d7ff), (0x1e900, 0x1e95f),
          (0x1f000, 0x1f2ff), (0x1f300, 0x1f9ff), (0x20000, 0x2003f), (0xe0100, 0xe01ef)]
FIXED = ["", " ", "  ", "\n", "\n\n", "\t", " \n ", "a", " a", "a ", "  a  b   c    ", "\r\n", "x\r\n\r\ny", "\x00", "\x00\x01\x7f",
         "it's I'll WE'VE they'd don'T 'S'T'RE \u017fs '\u017f", "1", "12", "123", "1234", "1234567", "3.14159e-10", "1,234,567.89",
         "²³¹½Ⅷ٣४０１２", "f(x)=x**2;//c", "if (a<=b){return\ta->c;}\n\n\n", "#include <stdio.h>\n\nint main(void) {\n\treturn 0;\n}\n",
         "http://example.com/a?b=c&d=%20#e", "$$$^^^+++===~~~|||```", "---___***!!!???...", "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 1️⃣", "e\u0301 é ﬁ Ⅷ ㎏ ｱ ｶﾞ",
         "ﷺ ŉ ẛ̣ Å Ω", "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "a<|endoftext|> b", "<tool>x</tool>", " <tool> ",
         "<s>", "</s>", "<0x0A>", "▁", "▁▁a", "İstanbul ıi ΑΣ ς", "\u180e\u200b\u2028\u2029\u0085\u00a0\u3000", "\ufeffbom", "日本語のテキスト、です。",
         "中文文本，没有空格。", "한국어 텍스트입니다", "ภาษาไทยไม่มีช่องว่าง", "हिन्दी में पाठ।", "العربية نصٌ مشكولٌ", "עברית עם ניקוּד", "Ελληνικά Κείμενο",
         "Кириллица Ёё", "მხედრული ႠႡ", "Ꭰꭰ ᏸ", "\U00010400\U00010428 \U0001e900", "\u0378\u0530", "a\u0300\u0301\u0302b", "x" * 300, " " * 300,
         "\n" * 50, "ab" * 100, "0" * 100, "é" * 60, "😀" * 40, "<word", "word>", "a word.", "wordy word", "MASK", "  MASK  ", "xMASKy"]


def is_settled(character):
    """Whether the library's normalizers, whose tables are those of Unicode 9, treat it as later versions do."""
    from tokenizers import normalizers
    mark = unicodedata.category(character)[0] == "M"
    around = "a\u0323" + character + "\u0301"
    return (normalizers.StripAccents().normalize_str(character) == ("" if mark else character) and
            all(getattr(normalizers, form)().normalize_str(around) == unicodedata.normalize(form, around)
                for form in ("NFC", "NFKC")))


def make_strings():
    draw = random.Random(20240)
    scripts = [[chr(c) for c in range(low, high + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs") and is_settled(chr(c))]
               for low, high in RANGES]
    bits = [" ", " ", "  ", "\n", "\t", "'s", "'LL", "12", "007", ".", "...", "!?", "(", ")", "\r\n", "_", "-", "\u200d", "\ufe0f", "\u0301"]
    strings = list(FIXED)
    for script in scripts:
        for _ in range(20):
            strings.append("".join(draw.choice(script) if draw.random() < 0.8 else draw.choice(bits)
                                   for _ in range(draw.randint(1, 14))))
    pool = [w for w in FIXED if 0 < len(w) < 40]
    while len(strings) < 2200:
        strings.append("".join(draw.choice(pool + bits * 3) if draw.random() < 0.6 else
                               draw.choice(draw.choice(scripts)) for _ in range(draw.randint(2, 5))))
    return strings


def added(contents, first_id, special, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return [{"id": first_id + i, "content": c, **{**usual, **flags}} for i, c in enumerate(contents)]


def train_bytes(texts):
    from tokenizers import decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\x02", "removed"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False, max_token_length=12)
    tokenizer.train_from_iterator(texts, trainer)
    data = json.loads(tokenizer.to_str())
    n = len(data["model"]["vocab"])
    data["added_tokens"] = added(SPECIAL, n, True) + added(USER, n + len(SPECIAL), False)
    return data


def train_sentences(texts):
    """A BPE of characters with byte fallback, as Llama 2, Mistral and Phi-3 publish theirs."""
    from tokenizers import models, normalizers, trainers
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=specials, show_progress=False, max_token_length=8,
                                  limit_alphabet=200)
    tokenizer.train_from_iterator([w for t in texts for w in t.replace("\n", " \n").split(" ")], trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = added(["<unk>", "<s>", "</s>"], 0, True)
    data["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                              {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                              {"Sequence": {"id": "B", "type_id": 1}}],
                              "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    data["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                       {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return data


def train_unigram(texts, folder):
    """A unigram model by SentencePiece, with a small table of replacements of its own."""
    import base64
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb
    rules = []
    for c in [*range(0xff01, 0xff5f), *range(0x2460, 0x2474), *range(0xfb00, 0xfb07), 0x2126, 0x212b, 0x3000, 0xa0, 0x2026, *range(0x2160, 0x216c)]:
        rules.append((chr(c), unicodedata.normalize("NFKC", chr(c))))
    rules += [("e\u0301", "é"), ("a\u0300", "à"), ("\t", " "), ("\r", " "), ("\u200b", "")]
    (folder / "rules.tsv").write_text("".join(" ".join(f"{ord(x):X}" for x in a) + "\t" + " ".join(f"{ord(x):X}" for x in b) + "\n"
                                              for a, b in rules), encoding="utf-8")
    (folder / "text").write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "m"), vocab_size=800, model_type="unigram", character_coverage=0.999,
        normalization_rule_tsv=str(folder / "rules.tsv"), max_sentence_length=20000, minloglevel=2, num_threads=1,
        remove_extra_whitespaces=False)
    model = pb.ModelProto()
    model.ParseFromString((folder / "m.model").read_bytes())
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(["<unk>", "<s>", "</s>"], 0, True),
            "normalizer": {"type": "Precompiled",
                           "precompiled_charsmap": base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
                               {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                               {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [[p.piece, round(p.score, 6)] for p in model.pieces],
                      "byte_fallback": False}}


def make_variants(bytes_data, sentences, unigram):
    n = len(bytes_data["model"]["vocab"])
    flags = (added(["MASK"], n, True, lstrip=True) + added(["<word"], n + 1, False, single_word=True) +
             added(["word"], n + 2, False, single_word=True, normalized=True) + added(["word>"], n + 3, False, rstrip=True) +
             added(["É"], n + 4, False, normalized=True))
    vocab, next_id = bytes_data["model"]["vocab"], n
    for token in flags:  # one that the vocabulary has keeps its id there
        token["id"] = vocab.get(token["content"], next_id)
        next_id += token["id"] == next_id
    variants = {}
    for name, (pre, normalizer, model, gguf) in BYTES.items():
        variants[name] = {"base": "bytes", "set": {"pre_tokenizer": pre, "normalizer": normalizer}, "model": model,
                          "gguf": gguf.split()}
    variants["flags"] = {"base": "bytes", "set": {"pre_tokenizer": byte_level(True), "normalizer": {"type": "Lowercase"},
                                                  "added_tokens": flags}, "model": {}, "gguf": []}
    variants["sentences"] = {"base": "sentences", "set": {}, "model": {}, "gguf": []}
    variants["first"] = {"base": "sentences", "set": {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}, "model": {"byte_fallback": False}, "gguf": []}
    variants["unfused"] = {"base": "sentences", "set": {}, "model": {"byte_fallback": False, "fuse_unk": False}, "gguf": []}
    variants["unigram"] = {"base": "unigram", "set": {}, "model": {}, "gguf": []}
    variants["unigram-words"] = {"base": "unigram", "set": {"pre_tokenizer": sequence(
        {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True})},
        "model": {}, "gguf": []}
    return variants


def hash_ids(ids):
    value = 0x811c9dc5
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = (value ^ byte) * 0x01000193 & 0xffffffff
    return value


def hash_variant(folder, variant, strings):
    data = json.loads((folder / f"{variant['base']}.json").read_text(encoding="utf-8"))
    data.update(variant["set"])
    data["model"].update(variant["model"])
    tokenizer = Tokenizer.from_str(json.dumps(data))
    return b"".join(struct.pack("<I", hash_ids(tokenizer.encode(s).ids)) for s in strings)


def dump(path, data):
    path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    if sys.argv[1] != "--check":
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        strings = make_strings()
        texts = []
        for name in sys.argv[2:]:
            text = Path(name).read_text(encoding="utf-8")
            texts += [text[i:i + 400] for i in range(0, min(len(text), 400000), 400)]
        texts += [s.replace("<tool>", "") for s in strings] * 2  # an added token is none of the vocabulary
        plain = [t for t in texts[:-2 * len(strings)] + FIXED if "\x00" not in t]
        scratch = Path(tempfile.mkdtemp())
        bases = {"bytes": train_bytes(texts), "sentences": train_sentences([t.replace("\x00", "") for t in texts]), "unigram": train_unigram(plain, scratch)}
        for name, data in bases.items():
            dump(folder / f"{name}.json", data)
        dump(folder / "strings.json", strings)
        dump(folder / "variants.json", make_variants(**{{"bytes": "bytes_data"}.get(k, k): v for k, v in bases.items()}))
        for name, variant in json.loads((folder / "variants.json").read_text(encoding="utf-8")).items():
            (folder / f"{name}.ids").write_bytes(hash_variant(folder, variant, strings))
        # GGUF's "t5" is SentencePiece's own way, which the tokenizers library departs from.
        import sentencepiece
        processor = sentencepiece.SentencePieceProcessor(model_file=str(scratch / "m.model"))
        (folder / "t5.ids").write_bytes(b"".join(struct.pack("<I", hash_ids(processor.encode(s))) for s in strings))
        return 0
    folder = Path(sys.argv[2])
    strings = json.loads((folder / "strings.json").read_text(encoding="utf-8"))
    wrong = 0
    for name, variant in json.loads((folder / "variants.json").read_text(encoding="utf-8")).items():
        same = hash_variant(folder, variant, strings) == (folder / f"{name}.ids").read_bytes()
        print(f"{name}: {len(strings)} strings {'agree' if same else 'DIFFER'}")
        wrong += not same
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
