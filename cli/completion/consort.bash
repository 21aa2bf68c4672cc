# bash completion for consort

_consort_devices() {
  consort devices --json 2>/dev/null |
    sed -n 's/^ *"name": "\([a-z0-9_-]*:[0-9]*\)",*$/\1/p'
}

_consort() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local command=${COMP_WORDS[1]} placement="--prefill --decode --kv-dtype --prefill-kv-dtype --fallback --threads --secret-file --pack-cache"
  COMPREPLY=()

  # A colon splits words: "--decode cpu:0" arrives as "cpu", ":" and "0".
  if declare -F _get_comp_words_by_ref >/dev/null; then
    _get_comp_words_by_ref -n : -c current -p previous
  fi

  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W \
      "devices pull info run tokenize logits eval quantize bench plan worker cts new-plugin --version --help" -- "$current")
    return
  fi

  case $previous in
    --prefill | --decode | --device | --against-prefill | --against-decode)
      mapfile -t COMPREPLY < <(compgen -W "$(_consort_devices)" -- "$current")
      if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$current"
      fi
      return ;;
    --kv-dtype | --prefill-kv-dtype | --against-kv-dtype)
      mapfile -t COMPREPLY < <(compgen -W "f32 f16 bf16 fp8 int8" -- "$current"); return ;;
    -t | --type) mapfile -t COMPREPLY < <(compgen -W "Q8_0 Q4_0 Q4_K_M Q6_K" -- "$current"); return ;;
    --fallback) mapfile -t COMPREPLY < <(compgen -W "strict warn allow" -- "$current"); return ;;
    --shape)
      mapfile -t COMPREPLY < <(compgen -W "llama-tiny llama-160m llama-1b llama-8b" -- "$current"); return ;;
    --format)
      mapfile -t COMPREPLY < <(compgen -W "F32 F16 BF16 Q8_0 Q4_0 Q4_K_M" -- "$current"); return ;;
    -o | --output | -f | --file | --against-model | --secret-file | --model | --write)
      mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
  esac

  local options
  case $command in
    devices) options="--worker --secret-file --json" ;;
    pull) options="--sha256 --offline --json" ;;
    info) options="--json" ;;
    worker) options="--listen --device --model --secret-file" ;;
    run) options="-p --prompt -n --n-tokens $placement --ctx --temp --top-k --top-p --min-p --seed
                  --repetition-penalty --frequency-penalty --presence-penalty --logit-bias --stop
                  --logprobs --chat --system --chat-template --stats --json" ;;
    tokenize) options="--no-special --json" ;;
    logits) options="--tokens --device $placement --split -o --output" ;;
    eval) options="-f --file --ctx --skip --windows $placement --compare --against-model
                   --against-prefill --against-decode --against-kv-dtype --nmse-limit --json" ;;
    quantize) options="-t --type --threads --json" ;;
    bench) options="--shape --format --write $placement -p --n-prompt -n --n-output -b --batch
                    -r --repetitions --no-limits --json" ;;
    plan) options="--devices --prompt-tokens --output-tokens --rate --slo-ttft --slo-tpot --kv-dtype
                   --measure-again --json" ;;
    cts) options="--require --json --junit --html" ;;
    new-plugin) options="" ;;
  esac
  if [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options --help" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}

complete -o filenames -F _consort consort
