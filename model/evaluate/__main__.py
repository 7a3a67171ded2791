"""`python -m model.evaluate`, which is `telltale evaluate`."""

from model.evaluate.command import evaluate

if __name__ == "__main__":
    evaluate(prog_name="python -m model.evaluate")
