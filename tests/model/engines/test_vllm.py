"""The client of a vLLM server: what it sends, what it refuses, and what it says when the server misbehaves."""

from __future__ import annotations

import base64
import io
import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from infra.vllm.serve import TEMPLATE
from model import prompt as prompts
from model.answer import decoded
from model.checkpoint import DEMO, DEMO_FOLDER, Interface, load_interface
from model.decode import to_rgb
from model.detector import Detector
from model.engines import vllm
from model.engines.engine import EngineError
from model.engines.vllm import Server, ServerUnavailable, VllmEngine, cropped
from model.manifest import Prompt
from model.preprocess import to_pixels
from tests.model.engines import album
from tests.model.engines.record import TOO_LONG, UNKNOWN_MODEL
from tests.model.engines.replay import Replay, Said, nobody, serving

COMPLETIONS = "/v1/chat/completions"
WAIT_S = 60
IMAGE_TOKENS = 144


@pytest.fixture(scope="module")
def interface() -> Interface:
    return load_interface(DEMO)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "PAUSES_S", (0.0, 0.0))


def renamed(interface: Interface, **changes: Any) -> Interface:
    return Interface(interface.processor, interface.manifest.model_copy(update=changes), interface.tokens)


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(96, 96), (200, 96), (97, 640), (7, 5), (1300, 900), (96, 97)])
def test_a_crop_becomes_the_same_tensor_as_its_image(interface: Interface, size: tuple[int, int]) -> None:
    photo = to_rgb(DEMO_FOLDER.with_name("samples") / "astronaut.png").resize(size)
    crop = cropped(interface.processor, photo)
    assert (crop.mode, crop.size) == ("RGB", (96, 96))
    assert torch.equal(to_pixels(interface.processor, [crop]), to_pixels(interface.processor, [photo]))


def test_the_crop_is_sent_without_loss(interface: Interface) -> None:
    photo = album.contract()[-1]
    with serving(Replay()) as url:
        sent = VllmEngine(url, interface).prepare(photo)
    received = Image.open(io.BytesIO(base64.b64decode(sent.removeprefix(album.URI))))
    assert received.tobytes() == cropped(interface.processor, photo).tobytes()


def llama() -> PreTrainedTokenizerFast:
    """A tokenizer that marks words as Llama 2's does: a space mark before the first word of every stretch of text."""
    text = Prompt().text + " This is a real fake image."
    letters = sorted(set(text.replace(" ", "▁").replace("<image>", "")) | {"▁"})
    words = [["▁", "r"], ["e", "a"], ["ea", "l"], ["▁r", "eal"], ["▁", "f"], ["a", "k"], ["ak", "e"], ["▁f", "ake"]]
    vocabulary = ["<unk>", "<s>", "</s>", *letters, *("".join(pair) for pair in words)]
    made = Tokenizer(
        models.BPE({token: i for i, token in enumerate(vocabulary)}, [tuple(pair) for pair in words], unk_token="<unk>")
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(["<s>", "</s>", "<image>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("vocabulary", ["demo", "llama"])
@pytest.mark.parametrize("text", [Prompt().text, "Judge this: <image> Real?"])
def test_the_template_gives_the_tokens_we_feed(interface: Interface, vocabulary: str, text: str) -> None:
    """As a server renders it: messages to text, the image's place filled, and no special token added."""
    tokenizer = interface.processor.tokenizer if vocabulary == "demo" else llama()
    prompt = Prompt(text=text)
    tokens = prompts.encode(tokenizer, prompt, image_token="<image>", image_tokens=IMAGE_TOKENS)
    before, _, after = text.partition("<image>")
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    asked = [{"role": "user", "content": [part for part in parts if part.get("text") != ""]}]

    def rendered(messages: list[dict[str, Any]], **options: Any) -> tuple[int, ...]:
        text = tokenizer.apply_chat_template(
            messages, chat_template=TEMPLATE.read_text(), tokenize=False, add_generation_prompt=False, **options
        )
        return tuple(
            tokenizer(text.replace("<image>", "<image>" * IMAGE_TOKENS), add_special_tokens=False)["input_ids"]
        )

    def answered(answer: str) -> tuple[int, ...]:
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return rendered([*asked, said], continue_final_message=True)

    assert rendered(asked) == tokens.prompt
    assert answered(prompt.verdict_prefix) == tokens.prefill
    assert answered(prompt.answer_start("fake")) == (*tokens.prefill, tokens.fake, *tokens.suffix)


def test_at_most_so_many_requests_are_in_flight(interface: Interface, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "CONCURRENT", 3)
    lock, now, most = threading.Lock(), [0], [0]
    replay, all_three = Replay(), threading.Barrier(3)

    def slow(method: str, path: str, body: bytes) -> Said:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if path == COMPLETIONS:
            all_three.wait(WAIT_S)
            time.sleep(0.02)  # a fourth would come meanwhile
        with lock:
            now[0] -= 1
        return replay(method, path, body)

    with serving(slow) as url:
        Detector(VllmEngine(url, interface)).judge(album.contract())
    assert most[0] == 3


def test_a_verdict_alone_takes_one_request(interface: Interface) -> None:
    replay = Replay()
    with serving(replay) as url:
        detector = Detector(VllmEngine(url, interface))
        replay.asked.clear()
        detector.judge(album.contract()[:5])
        assert replay.asked == [COMPLETIONS] * 5


# --- what is refused at connecting -----------------------------------------------------------------------------------


def test_another_model_is_refused_with_what_is_served(interface: Interface) -> None:
    with serving(Replay()) as url, pytest.raises(EngineError) as raised:
        VllmEngine(url, renamed(interface, name="fakevlm"))
    assert f"{url} serves telltale-demo:float32, not fakevlm: start it with" in str(raised.value)


def test_a_name_without_a_dtype_is_refused(interface: Interface) -> None:
    def unnamed(models: dict[str, Any]) -> Said:
        return 200, {"data": [{**models["data"][0], "id": "telltale-demo"}]}

    with serving(Replay({"/v1/models": unnamed})) as url, pytest.raises(EngineError, match="telltale-demo:DTYPE"):
        VllmEngine(url, interface)


def with_adapter(models: dict[str, Any]) -> Said:
    """As vLLM lists `--lora-modules telltale-demo:float32=FOLDER`: with its base, and without a length of its own."""
    [base] = models["data"]
    adapter = {**base, "parent": "base:float32", "max_model_len": None}
    return 200, {"data": [{**base, "id": "base:float32"}, adapter]}


def adapter(folder: Path, part: str) -> Path:
    (folder / "adapter_config.json").write_text("{}")
    save_file({f"base_model.model.model.{part}.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_is_served_beside_its_base(interface: Interface, tmp_path: Path) -> None:
    folder = adapter(tmp_path, "language_model.layers.0.mlp.up_proj")
    with serving(Replay({"/v1/models": with_adapter})) as url:
        assert VllmEngine(url, interface, folder=folder).dtype == "float32"


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_an_adapter_that_would_be_served_in_part_is_refused(interface: Interface, tmp_path: Path, part: str) -> None:
    folder = adapter(tmp_path, f"{part}.linear_1")
    with serving(Replay({"/v1/models": with_adapter})) as url, pytest.raises(EngineError) as raised:
        VllmEngine(url, interface, folder=folder)
    assert f"also adapts {part}, which vLLM leaves out" in str(raised.value)
    with serving(Replay()) as url:
        assert VllmEngine(url, interface, folder=folder).dtype == "float32", "it is merged there"


def test_a_quantized_version_is_not_taken_for_the_one_served(interface: Interface) -> None:
    with serving(Replay()) as url, pytest.raises(EngineError, match=r"quantized .nf4., which is only done in process"):
        VllmEngine(url, renamed(interface, quantization="nf4"))


def test_a_server_with_too_little_room_is_refused(interface: Interface) -> None:
    needed = len(interface.tokens.prefill) + 1 + len(interface.tokens.suffix) + 1000
    with serving(Replay()) as url, pytest.raises(EngineError, match=f"takes 1024 tokens.*--max-model-len {needed}`"):
        VllmEngine(url, interface, max_new_tokens=1000)


@pytest.mark.parametrize(
    "wrapped", [lambda ids: [1, *ids], lambda ids: [*ids[:-3], 5, *ids[-3:]], lambda ids: ids[:-1]]
)
def test_other_prompt_tokens_are_refused(interface: Interface, wrapped: Callable[[list[int]], list[int]]) -> None:
    """A second BOS, something in between, something missing: a chat template that is not ours."""

    def changed(said: dict[str, Any]) -> Said:
        return 200, {**said, "tokens": wrapped(said["tokens"])}

    with serving(Replay({"/tokenize": changed})) as url, pytest.raises(EngineError) as raised:
        VllmEngine(url, interface)
    message = str(raised.value)
    assert url in message
    assert f"'<s><image>Does the image looks real/fake?' (153 tokens, {IMAGE_TOKENS} of them the image's)" in message
    assert "chat template" in message


def test_the_answers_tokens_are_checked_too(interface: Interface) -> None:
    """A template that puts two spaces before an answer gets the prompt right, and the verdict wrong."""

    def changed(said: dict[str, Any]) -> Said:
        ids = said["tokens"]
        return 200, {**said, "tokens": ids if len(ids) == 153 else [*ids[:153], 7, *ids[153:]]}

    with serving(Replay({"/tokenize": changed})) as url, pytest.raises(EngineError, match=r"real/fake\? This is a'"):
        VllmEngine(url, interface)


# --- what goes wrong later -------------------------------------------------------------------------------------------


def broken(interface: Interface, change: Callable[[Any], Said], explain: bool = False) -> str:
    """What the engine says when a completion is answered otherwise."""
    replay = Replay()
    with serving(replay) as url:
        detector = Detector(VllmEngine(url, interface))
        replay.change[COMPLETIONS] = change
        with pytest.raises(EngineError) as raised:
            detector.detect(album.golden()[:2], explain)
        assert url in str(raised.value)
    return str(raised.value)


def first_choice(said: dict[str, Any], **changes: Any) -> Said:
    return 200, {**said, "choices": [{**said["choices"][0], **changes}]}


def test_an_answer_without_a_choice_is_an_error(interface: Interface) -> None:
    assert "without a choice" in broken(interface, lambda said: (200, {**said, "choices": []}))


def test_a_server_that_gives_no_log_probabilities_is_named(interface: Interface) -> None:
    """As an older vLLM does, which does not know `logprob_token_ids`."""
    assert "must be vLLM 0.32 or newer" in broken(interface, lambda said: first_choice(said, logprobs=None))
    assert "must be vLLM 0.32 or newer" in broken(
        interface, lambda said: first_choice(said, logprobs={"content": [{"token": " fake", "top_logprobs": []}]})
    )


@pytest.mark.parametrize("value", [None, 3.5])
def test_what_is_no_log_probability_is_no_score(interface: Interface, value: float | None) -> None:
    def changed(said: dict[str, Any]) -> Said:
        top = [{"token": f"token_id:{token}", "logprob": value} for token in (298, 316)]
        return first_choice(said, logprobs={"content": [{"top_logprobs": top}]})

    assert "not a log-probability" in broken(interface, changed)


def test_a_text_without_its_tokens_is_refused(interface: Interface) -> None:
    def changed(said: dict[str, Any]) -> Said:
        return first_choice(said, token_ids=None)

    assert "did not say which tokens it wrote" in broken(interface, changed, explain=True)


def test_an_answer_cut_at_the_limit_keeps_its_whole_sentences(interface: Interface) -> None:
    def cut(said: dict[str, Any]) -> Said:
        ids = said["choices"][0].get("token_ids")
        return first_choice(said, token_ids=ids[:-2], finish_reason="length") if ids else (200, said)

    image = album.golden()[1]
    whole = "This is a fake image. Square blocks of even brightness meet in hard seams across the image."
    with serving(Replay({COMPLETIONS: cut})) as url:
        [detection] = Detector(VllmEngine(url, interface)).detect([image])
    assert detection.explanation == whole


def test_a_refusal_is_passed_on_in_the_servers_words(interface: Interface) -> None:
    with serving(Replay()) as url:
        with pytest.raises(EngineError, match="answered 404: The model `another` does not exist"):
            Server(url).post(COMPLETIONS, UNKNOWN_MODEL, "choices")
        with pytest.raises(EngineError, match=r"answered 400: max_tokens=5000 cannot be greater"):
            Server(url).post(COMPLETIONS, TOO_LONG, "choices")


def test_an_error_of_the_server_is_not_an_absence(interface: Interface) -> None:
    """A worker counts it as an attempt at the image."""
    said = (500, {"error": {"message": "EngineCore encountered an issue."}})
    with serving(lambda *_: said) as url, pytest.raises(EngineError, match="answered 500: EngineCore") as raised:
        VllmEngine(url, interface)
    assert not isinstance(raised.value, ServerUnavailable)


@pytest.mark.parametrize("content", [b"<html>hello</html>", {"detail": "something else"}, []])
def test_what_is_no_vllm_server_is_named(interface: Interface, content: Any) -> None:
    with serving(lambda *_: (200, content)) as url, pytest.raises(EngineError, match="correct the address"):
        VllmEngine(url, interface)


def test_nobody_there_is_an_absence(interface: Interface) -> None:
    with nobody() as url, pytest.raises(ServerUnavailable) as raised:
        VllmEngine(url, interface)
    assert str(raised.value).startswith(f"No vLLM server answers at {url} ")
    assert "infra/vllm/README.md" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "reason"), [("localhost:8100", "must begin with http://"), ("http://localhost:gpu", "correct it")]
)
def test_what_is_no_address_is_an_error(interface: Interface, url: str, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        VllmEngine(url, interface)


def test_the_address_may_end_in_v1(interface: Interface) -> None:
    """As OpenAI's clients write it."""
    with serving(Replay()) as url:
        assert VllmEngine(f"{url}/v1/", interface).dtype == "float32"


def times(failures: int, said: Said) -> tuple[Callable[[str, str, bytes], Said], list[int]]:
    """A server that answers `said` to its first requests, and what was recorded to the others."""
    replay, count = Replay(), [0]

    def respond(method: str, path: str, body: bytes) -> Said:
        count[0] += 1
        return said if count[0] <= failures else replay(method, path, body)

    return respond, count


@pytest.mark.parametrize("said", [None, (503, {}), (502, b"bad gateway")])
def test_a_server_that_restarts_is_asked_again(interface: Interface, said: Said) -> None:
    respond, count = times(2, said)
    with serving(respond) as url:
        assert VllmEngine(url, interface).dtype == "float32"
    assert count[0] == 2 + 1 + 4


def test_a_server_that_stays_away_is_an_absence(interface: Interface) -> None:
    respond, count = times(99, (503, b""))
    with serving(respond) as url, pytest.raises(ServerUnavailable, match="answered 503: Service Unavailable"):
        VllmEngine(url, interface)
    assert count[0] == 3


@pytest.mark.parametrize("said", [None, (502, b"bad gateway")])
def test_a_server_that_hangs_up_on_an_image_is_not_an_absence(interface: Interface, said: Said) -> None:
    """Else an image that kills the server would be tried for ever."""
    respond, count = times(99, said)
    with serving(respond) as url, pytest.raises(EngineError, match="hung up") as raised:
        VllmEngine(url, interface)
    assert not isinstance(raised.value, ServerUnavailable)
    assert count[0] == 3


def test_a_server_that_hangs_is_not_asked_again(interface: Interface, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "TIMEOUT", httpx.Timeout(0.2, connect=5))
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    given_up = threading.Event()

    def hang(_: str, path: str, __: bytes) -> Said:
        asked.put(path)
        given_up.wait(WAIT_S)
        return None

    with serving(hang) as url:
        with pytest.raises(EngineError, match="did not answer within") as raised:
            VllmEngine(url, interface)
        assert asked.get(timeout=WAIT_S) == "/v1/models"
        given_up.set()
    assert not isinstance(raised.value, ServerUnavailable)
    assert asked.empty()


# --- tokens to text, as both engines do it ---------------------------------------------------------------------------


def test_text_ends_at_the_end_or_at_its_last_sentence(interface: Interface) -> None:
    tokenizer = interface.processor.tokenizer
    opening = prompts.encode_answer(tokenizer, Prompt(), "This is a fake image.")
    rest = prompts.encode_answer(tokenizer, Prompt(), "This is a fake image. The colours are strong. The colours")
    written = rest[len(opening) :]
    assert decoded(tokenizer, opening, written) == "This is a fake image. The colours are strong."
    ended = [*written, tokenizer.eos_token_id]
    assert decoded(tokenizer, opening, ended) == "This is a fake image. The colours are strong. The colours"
    assert decoded(tokenizer, opening, ()) == "This is a fake image."


def test_a_recorded_request_says_which_image_it_was_about() -> None:
    """Else a replay could not tell the images apart, and no score would prove anything."""
    replay = Replay()
    judged = {key[2] for key in replay._answers if '"max_tokens": 1,' in key[2]}
    assert len(judged) == len(album.contract())
    assert all(
        json.loads(request)["messages"][0]["content"][0]["image_url"]["url"][:7] == "sha256:" for request in judged
    )
