#!/usr/bin/env python3
"""Compares the text that chat templates give with what transformers' apply_chat_template gives.

    python3 -m venv V && V/bin/pip install transformers tokenizers jinja2
    V/bin/python tests/reference/chat_compare.py build/tests/chat_render FOLDER...

FOLDER holds *.jinja files or tokenizer_config.json files; published packages carry many, for example trl and
axolotl on PyPI. Each template gets a set of conversations: one turn, several, a system message, tools, tool
calls with their results, no answer begun. Where transformers raises an exception, Consort has to refuse too.
"""
import json
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Tell the weather of a \"place\".\n",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "City & country, e.g. <Köln>"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}, "days": {"type": ["integer", "null"]},
        "items": {"type": "array", "items": {"type": "number"}}}, "required": ["place"]},
    "return": {"type": "string", "description": "text"}}}
USER = {"role": "user", "content": "Hello, wie geht's?\n  "}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nGut, danke! 😀"}
SYSTEM = {"role": "system", "content": "You are \"terse\"."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {
    "name": "get_weather", "arguments": {"place": "Zürich", "days": 3, "x": 1.5, "ok": True, "no": None}}}]}
CALL_TEXT = json.loads(json.dumps(CALL))
CALL_TEXT["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL["tool_calls"][0]["function"]["arguments"])
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": "{\"t\": 21}"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "text", "text": "this"}]}

CONVERSATIONS = {
    "one turn": dict(messages=[USER]),
    "no answer begun": dict(messages=[USER, ANSWER], add_generation_prompt=False),
    "system": dict(messages=[SYSTEM, USER]),
    "several turns": dict(messages=[SYSTEM, USER, ANSWER, {"role": "user", "content": "Und dir?"}, ANSWER, USER]),
    "tools": dict(messages=[SYSTEM, USER], tools=[TOOL]),
    "tool calls": dict(messages=[USER, CALL, RESULT], tools=[TOOL]),
    "tool calls as text": dict(messages=[SYSTEM, USER, CALL_TEXT, RESULT, {"role": "assistant", "content": "21°"}, USER],
                               tools=[TOOL, TOOL]),
    "two results": dict(messages=[USER, CALL, RESULT, RESULT, ANSWER, USER], tools=[TOOL]),
    "parts": dict(messages=[PARTS]),
    "thinking": dict(messages=[SYSTEM, USER, ANSWER, USER], variables={"enable_thinking": True, "thinking": True}),
    "no thinking": dict(messages=[USER], variables={"enable_thinking": False}),
    "odd order": dict(messages=[ANSWER, USER, USER]),
}


def templates(folders):
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.jinja")):
            yield path.name, path.read_text(encoding="utf-8")
        for path in sorted(Path(folder).rglob("tokenizer_config.json")):
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(found, str):
                yield f"{path.parent.name}/tokenizer_config.json", found


def expected(tokenizer, text, case):
    try:
        return "ok", tokenizer.apply_chat_template(
            case["messages"], tools=case.get("tools"), chat_template=text, tokenize=False,
            add_generation_prompt=case.get("add_generation_prompt", True), **case.get("variables", {}))
    except Exception as error:  # whatever the template does wrong
        return "error", f"{type(error).__name__}: {error}"


def main():
    program, folders = sys.argv[1], sys.argv[2:]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    jobs, wanted = b"", []
    for name, text in templates(folders):
        for title, case in CONVERSATIONS.items():
            given = {"add_generation_prompt": True, **case, "bos": "<s>", "eos": "</s>"}
            jobs += text.encode() + b"\0" + json.dumps(given).encode() + b"\0"
            wanted.append((name, title, expected(tokenizer, text, case)))
    out = subprocess.run([program], input=jobs, stdout=subprocess.PIPE, check=True).stdout.split(b"\0")
    wrong, exact, refused = {}, 0, 0
    for i, (name, title, (status, text)) in enumerate(wanted):
        got_status, got = out[2 * i].decode(), out[2 * i + 1].decode(errors="replace")
        wrong.setdefault(name, [])
        if status == "ok" and (got_status, got) == (status, text):
            exact += 1
        elif status == "error" and got_status == "error":
            refused += 1
        else:
            wrong[name].append((title, status, text, got_status, got))
    for name, list_ in wrong.items():
        print(f"{name}: {len(CONVERSATIONS) - len(list_)} of {len(CONVERSATIONS)} agree")
        for title, status, text, got_status, got in list_[:2]:
            at = next((i for i, (a, b) in enumerate(zip(text, got)) if a != b), min(len(text), len(got)))
            print(f"    {title}: {status} {text[max(0, at - 40):at + 60]!r}\n    {'got':>{len(title)}}: {got_status} "
                  f"{got[max(0, at - 40):at + 60]!r}")
    good = sum(not list_ for list_ in wrong.values())
    print(f"{good} of {len(wrong)} templates agree on everything; {exact} texts are equal, {refused} conversations are refused by both")
    return good < len(wrong)


if __name__ == "__main__":
    sys.exit(main())
