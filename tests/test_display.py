"""What a person sees of a run: numbers that can be believed, and text that cannot harm."""

import os
import pty
import re
import sys
import types
from dataclasses import replace

import pytest

from tempocube.capture.display import watching
from tempocube.capture.pace import Pace, details
from tempocube.capture.progress import State
from tempocube.errors import BadInput
from tempocube.words import in_bytes, in_time

START = State("starting", 100, 0, 0, 0, 0, 0, 1.0, "", 0.25)
RUNNING = replace(START, stage="running", workers=2, seconds=5.0)
NASTY = "prompt=p0: \x1b[2J\r said [red]no[/red]\nand left"


def at(seconds, done, **other):
    return replace(RUNNING, seconds=seconds, done=done, **other)


def lines(capsys, *states, progress="lines"):
    """What a log gets of these states."""
    with watching(progress) as watch:
        for state in states:
            watch(state)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


# --- speed and time left


def paced(*states):
    pace = Pace()
    for state in states:
        pace.see(state)
    return pace


def test_no_time_left_is_told_before_something_is_done():
    states = START, RUNNING, at(60, 0)
    assert paced(*states).left(states[-1]) is None
    assert "left" not in details(states[-1], paced(*states))


def test_time_left_follows_from_the_batches_that_came_in_and_not_from_the_start():
    states = RUNNING, at(40, 10), at(50, 20), at(60, 30)
    assert paced(*states).left(states[-1]) == pytest.approx(70)
    waiting = at(64, 30)
    assert paced(*states, waiting).left(waiting) == pytest.approx(66)
    assert "about 1 min 6 s left" in details(waiting, paced(*states, waiting))


def test_after_the_first_batch_the_start_counts_too():
    states = RUNNING, at(25, 20)
    assert paced(*states).left(states[-1]) == pytest.approx(80)


def test_a_guess_that_has_proved_wrong_is_told_no_more():
    states = RUNNING, at(10, 50), at(15, 90), at(30, 90)
    assert paced(*states).left(states[-1]) is None


def test_cells_that_were_given_up_need_no_more_time():
    states = RUNNING, at(10, 10), at(20, 10, failed=90)
    assert paced(*states).left(states[-1]) is None
    assert "90 given up" in details(states[-1], paced(*states))


def test_every_stage_has_its_own_speed():
    check = replace(RUNNING, stage="cross-checking", asked=10, failed=3, tokens=5000)
    states = RUNNING, at(10, 97, tokens=5000, failed=3), replace(check, seconds=11.0)
    pace = paced(*states)
    assert pace.through(states[-1]) == 0
    assert (pace.left(states[-1]), pace.speed(states[-1])) == (None, None)
    later = replace(check, seconds=13.0, done=5)
    assert paced(*states, later).left(later) == pytest.approx(2)


def test_slots_a_second_are_those_of_the_stage():
    states = RUNNING, at(15, 10, tokens=4321)
    assert paced(*states).speed(states[-1]) == pytest.approx(432.1)
    assert "432 slots/s" in details(states[-1], paced(*states))


# --- a log


def test_a_log_gets_a_line_where_a_stage_begins_and_then_only_now_and_then(capsys):
    soon = [at(5 + second, second) for second in range(1, 30)]
    slow = [at(100, 31), at(200, 32), at(300, 41)]
    told = lines(capsys, START, RUNNING, *soon, *slow)
    assert [line.partition(",")[0] for line in told] == [
        "starting: 100 cells",
        "running: 100 cells",
        "running: 31 of 100 cells",
        "running: 41 of 100 cells",
    ]


def test_news_is_told_at_once_on_one_line_and_cannot_command_the_terminal(capsys):
    told = lines(capsys, RUNNING, replace(RUNNING, news=NASTY))
    assert told[1:] == ["prompt=p0: \\x1b[2J  said [red]no[/red] and left"]


def test_the_dashboards_address_is_told_once(capsys):
    states = [replace(RUNNING, dashboard="http://here:1/status", seconds=second) for second in range(3)]
    told = lines(capsys, *states)
    assert sum("http://here:1/status" in line for line in told) == 1


def test_a_log_tells_what_a_run_takes(capsys):
    told = lines(capsys, RUNNING, at(105, 50, tokens=1000, stored=1_230_000_000, failed=1, memory=0.5))
    assert told[1] == (
        "running: 50 of 100 cells, 1 given up, 10 slots/s, 1.23 GB written, about 1 min 36 s left, "
        "2 workers, 50% of memory in use"
    )


@pytest.mark.parametrize("progress", [None, "auto"])
def test_nothing_is_shown_unasked_where_nobody_watches(capsys, progress):
    assert lines(capsys, START, replace(RUNNING, news="bad"), progress=progress) == []


def test_a_function_of_ones_own_gets_every_state():
    seen = []
    with watching(seen.append) as watch:
        watch(START)
    assert seen == [START]


def test_a_word_that_is_no_way_to_watch_is_refused():
    with pytest.raises(BadInput, match="progress: auto, lines, None or a function of a State, got 'loud'"):
        watching("loud").__enter__()


def test_a_reader_that_goes_away_does_not_stop_the_run(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with watching("lines") as watch:
            watch(START)
            watch(RUNNING)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what the stream still holds goes there


# --- a terminal


END = "that is all"


def on_terminal(monkeypatch, *states, kind="xterm"):
    """What a real terminal of 80 columns is sent."""
    screen, line = pty.openpty()
    for name, value in (("TERM", kind), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    with open(line, "w") as stream, open(screen, "rb", buffering=0) as sent:
        monkeypatch.setattr(sys, "stderr", stream)
        with watching("auto") as watch:
            for state in states:
                watch(state)
        stream.write(END)
        stream.flush()
        seen = b""
        while not seen.endswith(END.encode()):  # what was written comes out bit by bit
            seen += sent.read(1 << 20)
        return seen.decode().removesuffix(END)


def test_a_terminal_gets_a_bar_with_news_above_it(monkeypatch):
    state = at(65, 50, failed=1, news=NASTY, dashboard="http://here:1/status")
    sent = on_terminal(monkeypatch, state)
    assert "━" in sent
    assert "\x1b[2J" not in sent
    assert sent.index("http://here:1/status") < sent.index("\\x1b[2J") < sent.index("50/100")


def test_the_bar_and_its_details_are_two_lines_of_the_terminals_width(monkeypatch):
    full = at(65, 50, tokens=10**9, stored=10**14, failed=10, workers=1000, memory=0.99)
    sent = on_terminal(monkeypatch, RUNNING, full)
    drawn = sent.split("\x1b[2Krunning")[-1].removesuffix("\x1b[1A\x1b[2K" * 2)  # wiped at the end
    bare = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn).split("\r\n")[:2]
    assert len("running" + bare[0]) == 80
    assert len(bare[1]) == 80
    assert bare[1].endswith("…")


def test_the_bar_is_gone_when_the_run_is_over(monkeypatch):
    assert on_terminal(monkeypatch, RUNNING).endswith("\x1b[1A\x1b[2K\x1b[1A\x1b[2K")  # both lines are wiped


def test_a_terminal_that_cannot_redraw_gets_no_bar(monkeypatch):
    assert on_terminal(monkeypatch, RUNNING, kind="dumb") == ""


def test_a_log_gets_no_bar_even_if_it_likes_colours(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert lines(capsys, RUNNING, progress="auto") == []


# --- a notebook


@pytest.fixture
def notebook(monkeypatch):
    """IPython is no dependency, so here is the little of it that is used: a shell's name and `display`."""
    shown = []

    def display(made, *, raw, display_id):
        assert raw
        assert display_id
        shown.append(made)
        return types.SimpleNamespace(update=lambda made, raw: shown.append(made))

    shell = type("ZMQInteractiveShell", (), {})()
    module, screen = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    module.get_ipython, screen.display = lambda: shell, display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    return shown


def test_a_notebook_gets_one_output_that_is_updated(notebook, capsys):
    assert lines(capsys, RUNNING, at(65, 50, news=NASTY), progress="auto") == []
    first, second = notebook
    assert 'value="0" max="100"' in first["text/html"]
    assert 'value="50" max="100"' in second["text/html"]
    assert "running: 50 of 100 cells" in second["text/plain"]


def test_text_of_prompts_is_no_html_in_a_notebook(notebook):
    with watching("auto") as watch:
        watch(replace(RUNNING, news="prompt <script>x</script> failed"))
    assert "<script>" not in notebook[0]["text/html"]


# --- words


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (1_230_000, "1.23 MB"), (2.5e12, "2.50 TB")],
)
def test_bytes_are_told_in_three_digits(size, told):
    assert in_bytes(size) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.42, "0.4 s"), (9.97, "10.0 s"), (59.7, "1 min 0 s"), (123, "2 min 3 s"), (7500, "2 h 5 min")],
)
def test_times_are_told_as_people_say_them(seconds, told):
    assert in_time(seconds) == told
