#!/usr/bin/env bash
# With the Mistral backend text does not lead back to ids: not from a chat, not from decode, not from names.
#
# Versions: transformers 5.23.0, mistral-common 1.13.1 (and its tokenizers), torch 2.13.0, Python 3.11.
# One would guess: the text of apply_chat_template(tokenize=False), encoded without special tokens, gives the ids of
#   tokenize=True; decode gives readable text; convert_tokens_to_ids undoes convert_ids_to_tokens; and the methods of a
#   tokenizer that are properties elsewhere are properties.
# What happens: "[INST]" in a text is always ordinary text, so a chat of 4 ids comes back as 12, and bos_token in front
#   as well. decode of the SentencePiece tokenizers joins raw pieces ("<s>▁The▁city") unless special tokens are
#   skipped; of Tekken it does not. In Tekken 1,435 of 131,072 ids have a name that leads to another id.
#   added_tokens_decoder is a method, and raises.
# Where: transformers/tokenization_mistral_common.py, MistralCommonBackend.
# So: take ids for a chat, never its text; decode token by token with special tokens skipped; keep ids as identity.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 sentencepiece==0.2.3 mistral-common==1.13.1
python <<'END'
from pathlib import Path
import mistral_common, transformers
from transformers.tokenization_mistral_common import MistralCommonBackend

print("transformers", transformers.__version__, "mistral-common", mistral_common.__version__)
folder = Path(mistral_common.__file__).parent / "data"
text = "The city of Paris"
for name, is_tekken in (("tekken_240911.json", True), ("mistral_instruct_tokenizer_240323.model.v3", False),
                        ("tokenizer.model.v1", False)):
    tokenizer = MistralCommonBackend(tokenizer_path=str(folder / name))
    ids = tokenizer.encode(text)
    whole, skipped = tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)
    names = tokenizer.convert_ids_to_tokens(list(range(tokenizer.vocab_size)))
    lost = sum(back != i for i, back in enumerate(tokenizer.convert_tokens_to_ids(names)))
    print(f"{name}: decode {whole!r}, specials skipped {skipped!r}; ids lost by name {lost} of {len(names)}")
    assert skipped == text and whole == ("<s>The city of Paris" if is_tekken else "<s>▁The▁city▁of▁Paris")
    assert lost == (1435 if is_tekken else 0)

tokenizer = MistralCommonBackend(tokenizer_path=str(folder / "tekken_240911.json"))
chat = [{"role": "user", "content": "hi"}]
ids = tokenizer.apply_chat_template(chat)["input_ids"]
written = tokenizer.apply_chat_template(chat, tokenize=False)
again = tokenizer(written, add_special_tokens=False)["input_ids"]
print(f"chat {ids}, as text {written!r}, encoded without special tokens {again}")
assert len(ids) == 4 and len(again) == 12 and ids[0] == tokenizer.bos_token_id not in again
try:
    tokenizer.added_tokens_decoder()
    raise AssertionError("added_tokens_decoder works")
except NotImplementedError as error:
    print("added_tokens_decoder():", type(error).__name__)
END
