"""The engine that asks a vLLM server: the network runs there, for many clients at once, on as many GPUs as it has.

A client of `/v1/chat/completions` as vLLM 0.32 serves it, started as `infra/vllm/README.md` says. Images are sent as
the crop the processor makes, so that the network sees the same pixels as in process. It knows of a checkpoint only what
can be known without its weights, and proves at start that the server's tokens are those of the manifest's prompt.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from PIL import Image
from safetensors import safe_open

from model.adapters import WEIGHTS, is_adapter
from model.answer import decoded
from model.checkpoint import Interface, load_interface, locate
from model.engines.engine import Answer, Chooser, EngineError, Score
from model.manifest import Manifest
from model.prompt import Label

log = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float16", "float32")
GUIDE = "infra/vllm/README.md"
# Parts of a LLaVA, as they are called in the names of its weights.
BEYOND_LANGUAGE = ("vision_tower", "multi_modal_projector")

# Requests one engine has in flight at once. The server batches whatever is there; more than that waits in it.
CONCURRENT = 64
# A connection is made at once or not at all; an explanation of 256 tokens takes seconds on a GPU, more on a busy one.
# A free connection may be waited for as long as requests run: `CONCURRENT` of them are the engine's own bound.
TIMEOUT = httpx.Timeout(120, connect=5, pool=None)
# A lost connection or a gateway's 5xx is tried again after these pauses: a server that restarts, or has hung up.
PAUSES_S = (0.5, 2.0)
GATEWAY_LOST_IT = frozenset({502, 504})
# What vLLM 0.32 says of a model it does not serve (any more), with 404.
GONE = "does not exist"
# vLLM's HTTP server hangs up on a connection that was idle for 5 s; ours is dropped before that can cross a request.
KEEPALIVE_S = 3

# How far above 0 a log-probability may come out of float32 arithmetic.
ROUNDING = 1e-3

Given = TypeVar("Given")
Made = TypeVar("Made")


class ServerUnavailable(EngineError):
    """No server answers, or it says that it cannot now. No image is at fault: wait, or start the server."""


@dataclass(frozen=True)
class Serving:
    """A version that a server serves: see `engine.Successor`. Nothing of the earlier one is touched."""

    engine: VllmEngine

    def take_over(self) -> VllmEngine:
        """The engine that asks for this version."""
        return self.engine

    def give_back(self) -> None:
        """Nothing has changed."""


class VllmEngine:
    """Judges through the server at `url`, e.g. `http://127.0.0.1:8100`. All methods are safe to call from any thread.

    `max_new_tokens` bounds an explanation after its opening; `folder` is the checkpoint's, where it is on this machine.
    Connecting raises ServerUnavailable where nobody answers, and EngineError where the server serves another model,
    another prompt, too few tokens, or only a part of an adapter.
    """

    name = "vllm"

    def __init__(
        self, url: str, interface: Interface, *, folder: Path | None = None, max_new_tokens: int = 256
    ) -> None:
        self._interface = interface
        self._folder = folder
        self._max_new_tokens = max_new_tokens
        self._server = Server(url)
        self._served, self._dtype = self._find_model()
        self._check_prompt()

    @property
    def dtype(self) -> str:
        """As the served name says it: vLLM's API does not tell what it computes in."""
        return self._dtype

    @property
    def manifest(self) -> Manifest:
        return self._interface.manifest

    def prepare(self, image: Image.Image) -> str:
        """One RGB image as a data URI: the processor's crop of it, a PNG."""
        buffer = io.BytesIO()
        cropped(self._interface.processor, image).save(buffer, "PNG", compress_level=1)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    def answer(self, prepared: Sequence[str], choose: Chooser) -> list[Answer]:
        """See `Engine.answer`. An image that is explained takes two requests; the second finds the first's cache there.

        Raises EngineError, and ServerUnavailable where the server is away.
        """
        scores = _each(self._score, prepared)
        labels = [choose(index, score) for index, score in enumerate(scores)]
        wanted = [(image, label) for image, label in zip(prepared, labels, strict=True) if label is not None]
        texts = iter(_each(self._explain, wanted))
        return [
            Answer(score, None if label is None else next(texts)) for score, label in zip(scores, labels, strict=True)
        ]

    def complete(self, prepared: Sequence[str]) -> list[str]:
        """See `Engine.complete`."""
        return _each(lambda image: self._write(image, None, ()), prepared)

    def successor(self, source: str | Path, revision: str | None, manifest: Manifest) -> Serving:
        """See `Engine.successor`: the server must serve that version too, and under its name.

        Raises EngineError while it does not.
        """
        interface = load_interface(source, revision=revision, manifest=manifest)
        place, _ = locate(source, revision)
        folder = place if isinstance(place, Path) else None
        return Serving(VllmEngine(self._server.url, interface, folder=folder, max_new_tokens=self._max_new_tokens))

    def release(self) -> None:
        """See `Engine.release`; the network is the server's."""

    def _find_model(self) -> tuple[str, str]:
        """The served name `VERSION:DTYPE` of our model version, and the dtype in it."""
        if self.manifest.quantization != "none":
            raise EngineError(
                f"{self.manifest.name} is quantized ({self.manifest.quantization}), which is only done in process: "
                "use the transformers engine, or register the checkpoint unquantized."
            )
        cards = {card["id"]: card for card in self._server.get("/v1/models", "data")}
        for dtype in DTYPES:
            if card := cards.get(f"{self.manifest.name}:{dtype}"):
                # A LoRA adapter's card names its base as parent, and leaves the length to the base's card.
                self._check_room(max(each.get("max_model_len") or 0 for each in cards.values()))
                if card.get("parent") is not None:
                    self._check_adapter()
                return card["id"], dtype
        raise EngineError(
            f"The server at {self._server.url} serves {', '.join(sorted(cards)) or 'nothing'}, not "
            f"{self.manifest.name}: start it with `infra/vllm/serve.py`, or with "
            f"`--served-model-name {self.manifest.name}:DTYPE`, DTYPE being one of {', '.join(DTYPES)}."
        )

    def _check_room(self, room: int) -> None:
        """Whether prompt and longest answer fit the `room` tokens that a request may have."""
        tokens = self._interface.tokens
        needed = len(tokens.prefill) + 1 + len(tokens.suffix) + self._max_new_tokens
        if room < needed:
            raise EngineError(
                f"The server at {self._server.url} takes {room} tokens, and an answer may need {needed}: start it with "
                f"`--max-model-len {needed}` or more."
            )

    def _check_adapter(self) -> None:
        """vLLM 0.32 puts an adapter on the language model, and leaves out the rest of it without a word."""
        if self._folder is None or not is_adapter(self._folder):
            return
        with safe_open(self._folder / WEIGHTS, "pt") as weights:
            names = list(weights.keys())
        left_out = [part for part in BEYOND_LANGUAGE if any(part in name for name in names)]
        if left_out:
            raise EngineError(
                f"{self.manifest.name} also adapts {' and '.join(left_out)}, which vLLM leaves out of an adapter: "
                f"merge it (`telltale merge`), and start the server at {self._server.url} with that."
            )

    def _check_prompt(self) -> None:
        """Prompt and answers must be the same tokens to the server as to us: a chat wrapper costs FakeVLM 20 points."""
        tokens, prompt = self._interface.tokens, self.manifest.prompt
        expected: dict[str | None, tuple[int, ...]] = {None: tokens.prompt, prompt.verdict_prefix: tokens.prefill}
        for label in ("real", "fake"):
            opening = (*tokens.prefill, tokens.verdict(label), *tokens.suffix)
            expected[prompt.answer_start(label)] = opening
        image = self.prepare(Image.new("RGB", (64, 64)))
        for answer, ours in expected.items():
            theirs = self._server.post("/tokenize", self._conversation(image, answer), "tokens")
            if tuple(theirs) != ours:
                raise EngineError(_difference(self._server.url, self._interface, answer, theirs, ours))

    def _conversation(self, image: str, answer: str | None) -> dict[str, Any]:
        """The body every request begins with: the prompt with its image, and the answer to be continued, if any."""
        before, _, after = self.manifest.prompt.text.partition(self._interface.processor.image_token)
        parts: list[dict[str, Any]] = [{"type": "text", "text": text} for text in (before, after)]
        parts.insert(1, {"type": "image_url", "image_url": {"url": image}})
        messages = [{"role": "user", "content": [part for part in parts if part.get("text") != ""]}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return {
            "model": self._served,
            "messages": messages,
            "add_generation_prompt": False,
            "continue_final_message": answer is not None,
        }

    def _score(self, image: str) -> Score:
        """The two words' log-probabilities at the verdict's position: their logits, less what both have in common."""
        tokens = self._interface.tokens
        said = self._ask(
            image,
            self.manifest.prompt.verdict_prefix,
            max_tokens=1,
            logprobs=True,
            logprob_token_ids=[tokens.real, tokens.fake],
            return_tokens_as_token_ids=True,
        )
        real, fake = (self._log_probability(said, token) for token in (tokens.real, tokens.fake))
        return Score(real=real, fake=fake, pair_mass=min(math.exp(real) + math.exp(fake), 1.0))

    def _log_probability(self, said: dict[str, Any], token: int) -> float:
        listed = ((said.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
        found: dict[str, Any] = {each["token"]: each["logprob"] for each in listed}
        name = f"token_id:{token}"
        if name not in found:
            raise EngineError(
                f"The server at {self._server.url} gave no log-probability for token {token}: it must be vLLM 0.32 or "
                "newer, which can be asked for given tokens (`logprob_token_ids`)."
            )
        value = found[name]
        if not isinstance(value, int | float) or not math.isfinite(value) or value > ROUNDING:
            raise EngineError(
                f"{self.manifest.name} gave a score that is not a log-probability ({value}): weights or dtype are "
                f"wrong, or the server at {self._server.url} was started with another `--logprobs-mode`."
            )
        return float(value)

    def _explain(self, wanted: tuple[str, Label]) -> str:
        image, label = wanted
        tokens = self._interface.tokens
        opening = (*tokens.prefix, tokens.verdict(label), *tokens.suffix)
        return self._write(image, self.manifest.prompt.answer_start(label), opening)

    def _write(self, image: str, answer: str | None, opening: tuple[int, ...]) -> str:
        """`answer` (in tokens: `opening`) as the model goes on with it, greedily."""
        said = self._ask(image, answer, max_tokens=self._max_new_tokens, return_token_ids=True)
        written, tokenizer = said.get("token_ids"), self._interface.processor.tokenizer
        if written is None:
            raise EngineError(
                f"The server at {self._server.url} did not say which tokens it wrote: it must be vLLM 0.32 or newer."
            )
        ended = said["finish_reason"] == "stop"
        return decoded(tokenizer, opening, [*written, tokenizer.eos_token_id] if ended else written)

    def _ask(self, image: str, answer: str | None, **options: Any) -> dict[str, Any]:
        """The first choice of a completion; nothing is sampled, whatever defaults the server was started with."""
        body = {**self._conversation(image, answer), "temperature": 0, "repetition_penalty": 1.0, **options}
        choices: list[dict[str, Any]] = self._server.post("/v1/chat/completions", body, "choices")
        if not choices:
            raise EngineError(f"The server at {self._server.url} answered without a choice: look into its log.")
        return choices[0]


class Server:
    """HTTP to one address, with what goes wrong there as an EngineError that names the address and what to do."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise EngineError(f"{url} is not the address of a server: it must begin with http:// or https://.")
        limits = httpx.Limits(max_connections=CONCURRENT, keepalive_expiry=KEEPALIVE_S)
        try:
            self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT, limits=limits)
        except httpx.InvalidURL as error:
            raise EngineError(f"{url} is not the address of a server ({error}): correct it.") from error

    def get(self, path: str, field: str) -> Any:
        """One field of the JSON at `path`."""
        return self._request("GET", path, None, field)

    def post(self, path: str, body: dict[str, Any], field: str) -> Any:
        """One field of the JSON answered to `body`, which may be sent more than once: it must change nothing."""
        return self._request("POST", path, body, field)

    def _request(self, method: str, path: str, body: dict[str, Any] | None, field: str) -> Any:
        for pause in PAUSES_S:
            try:
                return self._once(method, path, body, field)
            except (ServerUnavailable, _ConnectionLost) as error:
                log.warning("%s Trying again in %s s.", error, pause)
                time.sleep(pause)
        return self._once(method, path, body, field)

    def _once(self, method: str, path: str, body: dict[str, Any] | None, field: str) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerUnavailable(
                f"No vLLM server answers at {self.url} ({error}): start one as {GUIDE} says, or correct the address."
            ) from error
        except httpx.TimeoutException as error:
            raise EngineError(
                f"{self.url}{path} did not answer within {TIMEOUT.read:.0f} s: it has too much to do, or hangs. Send "
                "it fewer images at once (a smaller batch), or look into its log."
            ) from error
        except httpx.TransportError as error:
            raise _ConnectionLost(f"{self.url}{path} hung up ({error}): look into its log.") from error
        return self._content(response, path, field)

    def _content(self, response: httpx.Response, path: str, field: str) -> Any:
        said = f"{self.url}{path} answered {response.status_code}: {_message(response)}"
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise ServerUnavailable(f"{said}. It is starting, overloaded or down: wait, or look into its log.")
        if response.status_code == httpx.codes.NOT_FOUND and GONE in said:
            raise ServerUnavailable(f"{said} It served that before: wait for it, or for a worker to change over.")
        if response.status_code in GATEWAY_LOST_IT:
            raise _ConnectionLost(f"{said}. The server behind that address hung up: look into its log.")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise EngineError(f"{said}. Is this a vLLM server, started as {GUIDE} says, and not something else?")
        if not response.is_success:
            raise EngineError(f"{said}. Was it started as {GUIDE} says? Its log may tell more.")
        try:
            return response.json()[field]
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{said}. A vLLM server would say `{field}`: correct the address.") from error


class _ConnectionLost(EngineError):
    """The server took a request and hung up: it is restarting, or this request ended it."""


def cropped(processor: Any, image: Image.Image) -> Image.Image:
    """What `processor` makes of an RGB image before it rescales and normalises: the network's input, 8 bits a channel.

    Put through the processor again it comes out unchanged, so a server's processor makes the tensor that ours would.
    """
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    [pixels] = processor.image_processor(images=[image], **options)["pixel_values"]
    return Image.fromarray(pixels.transpose(1, 2, 0))


def _each(function: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
    """`function` of each, at once, in order. The first error is raised once the requests in flight have ended."""
    with ThreadPoolExecutor(CONCURRENT) as threads:
        return list(threads.map(function, given))


def _message(response: httpx.Response) -> str:
    """What the server says went wrong, on one line."""
    try:
        text = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(text.split())[:300] or response.reason_phrase


def _difference(url: str, interface: Interface, answer: str | None, theirs: Sequence[int], ours: Sequence[int]) -> str:
    """Where the server's prompt and ours part, with an image's tokens shown once."""
    text = interface.manifest.prompt.text + (f" {answer}" if answer else "")

    def shown(ids: Sequence[int]) -> str:
        image, tokenizer = interface.processor.image_token_id, interface.processor.tokenizer
        once = [token for token, before in zip(ids, [None, *ids], strict=False) if token != image or before != image]
        return f"{tokenizer.decode(once)!r} ({len(ids)} tokens, {list(ids).count(image)} of them the image's)"

    return (
        f"To the server at {url} the prompt {text!r} is {shown(theirs)}, to us {shown(ours)}: start it with "
        f"`infra/vllm/serve.py`, or with the chat template and the checkpoint's own tokenizer as {GUIDE} says."
    )
