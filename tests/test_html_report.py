"""`report.html`: what it says, and how it looks and reads in a real browser."""

import base64
import html.parser
import io
import re
import wave

import numpy as np
import pytest
from browser import Browser
from test_analysis import predictions
from test_report import make_results

from asc_jax.evaluation import analysis, intervals
from asc_jax.evaluation.report import report as html_report
from asc_jax.evaluation.report import sounds
from asc_jax.evaluation.report.figures import write_figures
from asc_jax.evaluation.report.tables import precision_and_recall

AXES = {"duration_s": 1.0, "f_min": 0.0, "f_max": 16_000.0}
HELD_OUT = {"locations": ["lyon-1000", "paris-1010"], "n_clips": 400, "macro_accuracy": 0.5,
            "accuracy": 0.5, "log_loss": 1.3}  # fmt: skip
RUN = {
    "workdir": "runs/a", "data_dir": "data/tau22", "n_train_clips": 6980, "train_data": "0f" * 32,
    "network": "cp_mobile (width 32)", "optimiser": "adamw; warmup_cosine (peak_lr 0.005)",
    "loss": "focal (gamma 2)", "augmentations": "none", "batch_size": 256, "compute": "float32",
    "changed": {"config.loss.gamma": "2"}, "jax_version": "0.10.2", "clips_per_s": 483.2,
    "evaluated_on": {"machine": "Linux x86_64", "device": "cpu", "python": "3.11.7",
                     "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "numpy": "2.4.6"},
}  # fmt: skip


def whole_results(given=None, held_out=None, **changes):
    given = given or predictions()
    return make_results(
        evaluated_with="1a2b3c4",
        checkpoint="last",
        selection="the last epoch: nothing was selected",
        validation=None,
        segments=analysis.by_segment(given),
        calibration=analysis.calibrate(given, held_out),
        most_confused=analysis.most_confused(given),
        intervals=intervals.of_predictions(given, n_replicates=200),
        by_class_and_value=intervals.by_class_and_value(given),
        run=RUN,
    ) | dict(changes)


def page(results, log="", learning_curve=None):
    rng = np.random.default_rng(0)
    log_mels = [rng.normal(-5, 3, (256, 68)) for _ in results["most_confused"]]
    return html_report.as_html(
        results,
        log_mels,
        AXES,
        metrics_jsonl_path=log,
        learning_curve=learning_curve,
        sounds=sounds.embedded([np.zeros(800) for _ in log_mels], 8_000),
    )


def words(content):
    """The text of a page, as one line."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", content, flags=re.S).split())


@pytest.fixture(scope="module")
def fullest(tmp_path_factory):
    """A page with all it can have, in a file."""
    folder = tmp_path_factory.mktemp("report")
    line = '{{"kind": "train", "epoch": {0}, "loss": 1.{0}, "accuracy": 0.{0}, "lr": 0.001}}\n'
    (folder / "metrics.jsonl").write_text("".join(map(line.format, range(1, 5))))
    results = whole_results(
        held_out=predictions(500, seed=1, sharpness=4.0),
        official_lists=False,
        over_budget=True,
        checkpoint="best",
        selection="selected on training locations held out",
        validation=HELD_OUT | {"locations": [f"stockholm-{1000 + k}" for k in range(60)]},
    )
    curve = write_figures(results, folder / "metrics.jsonl", folder)[-1]
    path = folder / "report.html"
    path.write_text(page(results, folder / "metrics.jsonl", curve), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


def test_page_says_what_results_json_says():
    results = whole_results()
    said = words(page(results))
    for figure in (
        results["float16"]["macro_accuracy"],
        results["segments"]["macro_accuracy"],
        results["calibration"]["as_trained"]["ece"],
        results["float16"]["groups"]["device"]["values"]["s4"]["accuracy"],
    ):
        assert f"{100 * figure:.2f}" in said
    assert "Evaluation of splits/5pct.py" in said
    assert "45.79" in said  # published, metro station
    assert all(clip["filename"].removeprefix("audio/") in said for clip in results["most_confused"])


def test_single_run_has_intervals_and_says_of_what():
    results = whole_results(predictions(800), most_confused=[])
    ends = results["intervals"]["macro_accuracy"]
    said = words(page(results))
    assert f"({100 * ends['low']:.2f} to {100 * ends['high']:.2f})" in said
    assert "95 % intervals by bootstrap over 80 moments" in said
    assert "what another seed would change is not part of them" in said
    older = {key: value for key, value in results.items() if key != "intervals"}
    assert "interval" not in words(page(older))
    few = whole_results(most_confused=[])  # a class has one moment
    assert few["intervals"]["macro_accuracy"] is None
    assert "No intervals of the averages" in words(page(few))


def test_classes_stand_by_the_values_of_each_group_column():
    results = whole_results(most_confused=[])
    found = results["by_class_and_value"]["device"]
    content = page(results)
    table = content[content.index('<caption id="by-value-1">') :]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", table[: table.index("</table>")], re.S)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    expected = [
        ["–" if share is None else f"{100 * share:.0f}" for share in row]
        for row in found["accuracy"]
    ]
    assert cells == expected
    assert "; –: no clips" in words(content)


def test_classes_have_precision_recall_and_f1():
    results = whole_results(most_confused=[])
    confusion = np.array(results["float16"]["confusion"])
    content = page(results)
    table = content[content.index('<caption id="precision-and-recall">') :]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", table[: table.index("</table>")], re.S)
    cells = [re.findall(r"<td>(.*?)</td>", row)[2:] for row in rows]
    correct = confusion.diagonal()
    precision, recall = correct / confusion.sum(0), correct / confusion.sum(1)
    f1 = 2 * precision * recall / (precision + recall)
    expected = np.stack([precision, recall, f1], 1)
    expected = [*expected, expected.mean(0)]
    assert cells == [[f"{100 * value:.2f}" for value in row] for row in expected]
    assert "never predicted" not in words(content)


def test_class_that_is_never_predicted_has_no_precision():
    results = whole_results(most_confused=[])
    for clips in results["float16"]["confusion"]:
        clips[0], clips[3] = clips[0] + clips[3], 0
    row = dict(zip("cpPRF", precision_and_recall(results).rows[3][1:], strict=True))
    assert [row[key] for key in "pPRF"] == ["0", "–", "0.00", "0.00"]
    assert "never predicted has no precision" in words(page(results))


def test_run_card_says_how_to_tell_this_run_from_another():
    said = words(page(whole_results(most_confused=[])))
    for part in ("runs/a", "6,980 clips of train_5pct", "0f0f0f0f0f0f0f0f", "483 clips per second",
                 "config.loss.gamma 2", "JAX 0.10.2, Flax 0.12.8", "seed 0"):  # fmt: skip
        assert part in said


def test_sounds_are_the_clips_and_small():
    rate, waveform = 8_000, np.sin(np.arange(8_000) / 5)
    (whole,) = sounds.embedded([waveform], rate)
    data = base64.b64decode(whole.url.partition(",")[2])
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (rate, 1, 2)
        read = np.frombuffer(file.readframes(8_000), "<i2")
    np.testing.assert_allclose(read / 32_767, waveform, atol=2e-5)
    assert (whole.duration_s, whole.whole) == (1.0, True)
    cut = sounds.embedded([waveform, 2 * waveform], rate, max_bytes=16_000)
    assert [(sound.duration_s, sound.whole) for sound in cut] == [(0.5, False)] * 2
    total = sounds.embedded([np.zeros(320_000)] * 12, 32_000)  # ten seconds each
    assert sum(len(sound.url) for sound in total) < 4 / 3 * sounds.MAX_BYTES + 12 * 100


def test_page_without_sounds_has_no_players():
    results = whole_results()
    results["most_confused"] = results["most_confused"][:1]
    log_mels = np.zeros((1, 8, 9))
    content = html_report.as_html(results, log_mels, AXES, metrics_jsonl_path="",
                                  learning_curve=None)  # fmt: skip
    assert "<audio" not in content
    assert page(results).count("<audio") == 1


def test_published_figures_stand_only_beside_the_official_lists():
    official, other = (words(page(whole_results(official_lists=x))) for x in (True, False))
    assert "report, published" in official
    assert "baseline, published" in official
    assert "Published figures are left out" not in official
    assert "published" not in other.replace("Published figures are left out", "")
    assert "45.79" not in other


def test_warnings_stand_before_any_figure(fullest):
    said = words(fullest.read_text("utf-8"))
    left_out, selected = "Published figures are left out", "selected on training locations held out"
    for warning in ("OVER BUDGET", left_out, selected):
        assert said.index(warning) < said.index("In brief")


def test_page_without_clips_held_out_says_how_to_get_a_temperature():
    said = words(page(whole_results()))
    assert "No temperature: no clips to fit one on: train with --config.data.vali" in said
    assert "This epoch was" not in said


def test_an_epoch_selected_on_the_test_list_is_a_warning():
    best = {"checkpoint": "best", "selection": "selected on the test split: not a result to report"}
    for validation, attributes in ((None, ' class="warning" role="note"'), (HELD_OUT, "")):
        content = page(whole_results(**best, validation=validation))
        assert f"<p{attributes}>This epoch was selected on the test split" in content


def test_page_tells_before_and_after_a_temperature(fullest):
    said = words(fullest.read_text("utf-8"))
    assert re.search(r"Reliability diagram, with temperature \d\.\d{3}: calibration error", said)
    assert re.search(r"fitted on 500 clips of training locations held out", said)


def test_page_does_without_what_is_missing():
    given = predictions()
    unnamed = given._replace(filenames=[f"{i}.wav" for i in range(200)])
    assert "There are none: the clip" in words(page(whole_results(unnamed)))
    right = given._replace(logits=50 * np.eye(10, dtype=np.float32)[given.label])
    assert "Every clip was classified correctly." in words(page(whole_results(right)))
    unlabelled = given._replace(label=np.full(200, -1))
    assert "Calibration" in words(page(whole_results(unlabelled)))


def test_names_cannot_inject_anything():
    given = predictions()
    evil = given._replace(filenames=[f"<script>alert({i})</script>&" for i in range(200)])
    content = page(whole_results(evil, config="<b>mine</b>"))
    assert "<script" not in content
    assert "<b>" not in content


def test_page_needs_nothing_but_itself(fullest):
    addresses = re.findall(r'(?:href|src|url)[=(]"?([^")\s>]+)', fullest.read_text("utf-8"))
    assert {a.split(":")[0] if ":" in a else a[0] for a in addresses} == {"data", "#"}


class Structure(html.parser.HTMLParser):
    """What stands in a page, tag by tag."""

    def __init__(self, content):
        super().__init__()
        self.tags = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_every_picture_and_table_has_its_words(fullest):
    tags = Structure(fullest.read_text("utf-8")).tags
    names = [tag for tag, _ in tags]
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in tags:
        if tag == "img":
            assert len(attrs["alt"]) > 40
        if attrs.get("role") == "img":
            assert len(attrs["aria-label"]) > 40
        if tag == "th":
            assert attrs["scope"] in ("row", "col")
    assert names.count("table") == names.count("caption") > 8
    assert names.count("svg") >= 12 + 2 + 1
    assert names.count("svg") == sum(attrs.get("role") == "img" for _, attrs in tags)
    headings = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(headings, headings[1:], strict=False))


def luminance(colour):
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_cells_of_the_matrix_are_legible():
    for share in np.linspace(0, 1, 101):
        style = html_report.heat(share)
        ground = [int(c) for c in re.findall(r"\d+", style.split(";")[0])]
        ink = [255] * 3 if style.endswith("#fff") else [0] * 3
        dark, light = sorted(map(luminance, (ground, ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1280, False)])
def test_page_in_a_browser_is_quiet_whole_and_legible(browser, fullest, width, dark):
    page = browser.open(fullest, width=width, dark=dark)
    assert (max(page.ground()) < 40) is dark
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.errors() == []
    assert page.cut_off() == []
    assert page.pale_words() == []
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    heard = "[...document.querySelectorAll('audio')].every(a => a.duration > 0 && !a.error)"
    assert page.evaluate(heard)


def test_screen_reader_meets_landmarks_and_named_pictures(browser, fullest):
    spoken = browser.open(fullest, width=1280).spoken()
    roles = {role for role, _ in spoken}
    assert {"banner", "navigation", "main", "region", "table", "caption", "note"} <= roles
    assert "rowheader" in roles
    pictures = [name for role, name in spoken if role in ("image", "img", "graphics-document")]
    assert len(pictures) >= 15
    assert all(pictures)


def test_keyboard_reaches_links_and_scrolls_wide_tables(browser, fullest):
    page = browser.open(fullest, width=360)
    seen = []
    for _ in range(40):
        page.press("Tab")
        seen.append(page.evaluate(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement)"
            ".outlineStyle, document.activeElement.getAttribute('aria-labelledby')]"
        ))  # fmt: skip
        if seen[-1][2] == "by-classes":
            break
    assert {"A", "DIV"} <= {tag for tag, _, _ in seen}
    assert {outline for _, outline, _ in seen} == {"solid"}
    assert seen[-1][2] == "by-classes"
    for _ in range(3):
        page.press("ArrowRight")
    scrolled = (
        "new Promise(r => {const e = document.activeElement, look = () => e.scrollLeft && "
        "r(e.scrollLeft); e.addEventListener('scroll', look); look()})"
    )
    found = page.call("Runtime.evaluate", expression=scrolled, awaitPromise=True)
    assert found["result"]["value"] > 0


def test_page_prints_whole(browser, fullest):
    page = browser.open(fullest, width=1280)
    page.print_preview()
    assert page.cut_off() == []
    assert page.pdf().startswith(b"%PDF")
