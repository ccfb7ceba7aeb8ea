"""Pages of docs/howto: what they tell their readers to type runs, and prints what they show."""

import pytest

from pages import ROOT, as_a_reader

HOWTO = [*sorted(ROOT.glob("docs/howto/*.md")), ROOT / "docs" / "tools.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", HOWTO, ids=[page.stem for page in HOWTO])
def test_a_how_to_page_runs_and_prints_what_it_shows(page, tmp_path):
    as_a_reader(page, tmp_path)
