"""Scenes, recording devices and cities of TAU Urban Acoustic Scenes 2022 Mobile.

A *device* is always the microphone a clip was recorded with. Ids are positions in these
tuples; the order of `SCENES` is the label order of the challenge's files.

Source: the data set's own documentation (Zenodo record 6337421) and the task's rules.
"""

from asc_jax.data.labels import Group, Labels

SCENES = (
    "airport", "bus", "metro", "metro_station", "park",
    "public_square", "shopping_mall", "street_pedestrian", "street_traffic", "tram",
)  # fmt: skip
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
# Real microphones, simulated ones that the training lists contain, and simulated ones that
# only the test list contains.
DEVICE_GROUPS = {
    "real": ("a", "b", "c"),
    "seen": ("s1", "s2", "s3"),
    "unseen": ("s4", "s5", "s6"),
}
CITIES = (
    "barcelona", "helsinki", "lisbon", "london", "lyon",
    "milan", "paris", "prague", "stockholm", "vienna",
)  # fmt: skip
TRAIN_PERCENTS = (5, 10, 25, 50, 100)

N_SCENES = len(SCENES)
N_DEVICES = len(DEVICES)

# Results are counted by scene and device, as the challenge counts them.
LABELS = Labels(SCENES, {"device": Group(DEVICES, DEVICE_GROUPS)})
