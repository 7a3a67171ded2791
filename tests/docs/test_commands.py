"""Every command block of README, quick start and tutorials is run, or stands here with the reason why it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.conftest import ROOT, Shell
from tests.docs.transcript import Step, commands, matches, prompted, steps

RUN = (
    "docs/quick-start.md",
    "docs/api.md",
    "docs/tutorials/platform.md",
    "docs/tutorials/moderator.md",
    "docs/tutorials/model.md",
)
PAGES = ("README.md", *RUN)
# What a page takes for granted. The quick start makes the platform `acme`.
READY = {
    "docs/api.md": """
        export URL=http://127.0.0.1:8000
        export TELLTALE_API_KEY=$(telltale keys create --tenant acme --name all --scope submissions:write \\
            --scope cases:read --scope cases:appeal --scope images:delete --scope webhooks:manage \\
            --scope settings:manage | awk '$1 == "key" {print $2}')
        export AUTH="Authorization: Bearer $TELLTALE_API_KEY"
        send() { curl -s -H "$AUTH" "$URL/v1/submissions?wait=20" -F image=@$1 -F metadata='{"subject": "u-17"}'; }
        member() { python -c "import json; print(json.loads(input())$1)"; }
        export ID=$(send model/demo/samples/palace.jpg | member '["id"]')
        export IMAGE=$(send model/demo/samples/fish.webp | member '["image"]["id"]')
        cp model/demo/samples/windmill.webp picture.jpg
        echo '{"synthetic": {}}' > defaults.json
    """
}
# What is not run here, and where it is, or why it cannot be. A command stands here as it stands on the page.
NOT_HERE = {
    "make demo": "starts a service of its own; its command is run by tests/e2e/test_demo.py",
    "make demo ONCE=1": "the same",
    "make test": "runs this",
    "make demo-retrain ONCE=1": "minutes; its command is run by tests/infra/test_commands_demo_retrain.py",
    "make gate-check": "minutes; the rules are tried by tests/model/gate/test_rules.py",
    "telltale detect model/demo/samples/palace.jpg model/demo/samples/dogs.jpg": (
        "loads the model once more, which takes seconds; run by tests/model/test_detect_command.py"
    ),
    "telltale detect model/demo/samples/windmill.webp --json": "the same",
    "telltale up": "run by tests/infra/test_up.py; here its processes run already",
    "TELLTALE_ALLOWED_HOSTS='[\"127.0.0.1:9000\"]' telltale up": "the same, and they may call what is there",
    "pip install ./infra/client": "installed so, once for all pages, by the fixture `client_packages`",
    ".venv/bin/telltale detect photo.jpg folder/": "run by tests/model/test_detect_command.py",
    "TELLTALE_MODEL=lingcco/fakeVLM@<40-digit commit> .venv/bin/telltale up": "needs the hub, and a GPU",
    "telltale models register lingcco/fakeVLM --promote": "needs the hub, and a GPU",
    ".venv/bin/telltale evaluate --data test.json --images DIR": "run by tests/model/evaluate/test_command.py",
    ".venv/bin/telltale finetune --config run.yaml": "run by tests/model/finetune/test_command.py",
    ".venv/bin/telltale doctor": "run by tests/infra/test_up.py, on a stack of its own",
    ".venv/bin/telltale backup DIR": "run by tests/infra/test_backup.py and tests/e2e/test_restore.py",
    ".venv/bin/mkdocs serve": "serves what `make check` builds",
    ".venv/bin/telltale merge ADAPTER OUTPUT": "run by tests/model/finetune/test_command.py",
    "telltale evaluate --data model/demo/heldout/records.json --limit 24 --answers none --out runs/first-look": (
        "seconds of CPU; run by tests/model/evaluate/test_command.py"
    ),
    "telltale finetune --config run.yaml": "minutes; run by tests/model/finetune/test_command.py on a tiny network",
    "telltale evaluate --checkpoint runs/first --data model/demo/heldout/records.json --out runs/after": (
        "needs what the command before it trained; the same"
    ),
    "telltale models register runs/first": "needs what was trained; run by tests/infra/test_commands_models.py",
    "telltale models promote my-first-adapter": "the same",
    "telltale models rollback": "the same",
    'curl -H "$AUTH" $URL/v1/submissions --json \'{"upload_id": "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a55"}\'': (
        "an upload's id is its own; run by tests/infra/client/test_client.py"
    ),
    'curl -H "$AUTH" -X POST $URL/v1/cases/$ID/retry': "needs a failed case; run by tests/infra/client/test_client.py",
    "telltale retrain": "a night; run by tests/infra/test_commands_retrain.py",
}


def page(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.timeout(900)
def test_the_pages_can_be_followed(shell: Shell) -> None:
    """In one test, because there is one service for all of them."""
    differ = [said for name in RUN for said in differences(shell, name)]
    assert not differ, "\n\n".join(differ)


def differences(shell: Shell, name: str) -> list[str]:
    """What a page's commands print and the page does not show, or the other way round."""
    found = steps(page(name))
    for step in found:
        step.commands = [command for command in step.commands if command not in NOT_HERE]
    _, *printed = shell.follow([Step([READY.get(name, "")]), *found])
    return [
        f"{name} shows\n\n{step.output}\nafter {step.commands}, which print\n\n{output}"
        for step, output in zip(found, printed, strict=True)
        if step.output is not None and step.commands and not matches(step.output, output)
    ]


def test_the_readmes_commands_are_run_elsewhere_or_need_what_is_not_here() -> None:
    shown = {command for step in steps(page("README.md")) for command in step.commands}
    assert shown - set(NOT_HERE) == set()


def test_whatever_stands_here_is_on_a_page() -> None:
    shown = {command for name in PAGES for step in steps(page(name)) for command in step.commands}
    assert set(NOT_HERE) - shown == set()


def test_every_test_that_a_reason_names_is_there() -> None:
    named = [word.rstrip(";,") for reason in NOT_HERE.values() for word in reason.split() if word.startswith("tests/")]
    assert named and all(Path(ROOT, name).exists() for name in named)


def test_output_is_compared_but_not_its_layout() -> None:
    assert matches("a  b …\nd", "\n a b c\n ───\n  d \n")
    assert matches("a … d", "a d") and matches("a … d", "a b c d") and matches("…/a …", " b/a c")
    assert not matches("a b", "a c") and not matches("a", "a\nb")
    assert prompted("$ a '{\n b}'\n{1}\n$ c # d\n") == ["a '{\n b}'", "c"]
    assert commands("# why\na \\\n  b  # c\n\nd 'e#f'\n") == ["a b", "d 'e#f'"]
