"""What README and docs show is what one gets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"

# What the reader of a page has at hand.
NAMES = """
import numpy as np
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
X = rng.normal(size=(70, 3))
y = (X[:, 0] + rng.normal(scale=0.5, size=70) > 0).astype(int)
X, X_val, y, y_val = X[:40], X[40:], y[:40], y[40:]
owner = np.array(list("abcde"))[np.arange(40) % 5]
model = LogisticRegression()
"""


@pytest.fixture
def names():
    found = {}
    exec(NAMES, found)
    return found


def test_the_ten_lines_of_the_readme(run_page):
    assert run_page(ROOT / "README.md", only="make_classification") == 1


@pytest.mark.parametrize("page", ["getting_started", "engines"])
def test_a_page_of_the_guide(run_page, names, page):
    assert run_page(GUIDE / f"{page}.md", names) > 0


@pytest.mark.memcached
def test_the_page_on_caches(run_page, names, memcached_server, start_memcached):
    servers = {
        "10.0.0.5:11211": memcached_server.address,
        "10.0.0.6:11211": start_memcached().address,
    }
    assert run_page(GUIDE / "caching.md", names, replace=servers) > 0


def test_extending(run_page, names):
    assert run_page(ROOT / "docs" / "extending.md", names) > 0


@pytest.mark.parametrize("page", ["concepts", "sampling"])
def test_pages_of_words(run_page, page):
    assert run_page(GUIDE / f"{page}.md") == 0


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link
