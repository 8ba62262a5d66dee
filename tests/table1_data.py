"""A folder in TAU's layout for tests of Table 1: each scene at two places, few clips."""

from tau_folder import write_list, write_wav

from asc_jax.data.tau.taxonomy import CITIES, SCENES

DEVICES = ("a", "s4")


def clip_names(first):
    """40 clips: ten scenes, two locations each, of which one segment by two devices."""
    return [
        f"audio/{scene}-{CITIES[number]}-{first + 10 * place + number}-{place}-0-{device}.wav"
        for number, scene in enumerate(SCENES)
        for place in range(2)
        for device in DEVICES
    ]


def write_data(folder):
    """Training lists of 5 % (20 clips) and 10 % (40), and a test list of 40 clips."""
    train, test = clip_names(1000), clip_names(2000)
    for number, name in enumerate(train + test):
        write_wav(folder / name, seed=number)
    rows = []
    for name in train + test:
        scene, city, location, _, _, device = name[len("audio/") : -len(".wav")].split("-")
        rows.append((name, scene, f"{city}-{location}", device))
    header = ("filename", "scene_label", "identifier", "source_label")
    write_list(folder / "meta.csv", rows, header)
    setup = folder / "split_setup"
    write_list(setup / "split5.csv", [row[:2] for row in rows[:40:2]])
    write_list(setup / "split10.csv", [row[:2] for row in rows[:40]])
    write_list(setup / "test.csv", [row[:2] for row in rows[40:]])
    return folder
