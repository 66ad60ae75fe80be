"""The quick profile with few images and few steps, for the kernels of the notebooks' tests, which import this first."""

from mdr_core import config
from mdr_core.data import drawn_characters, fingerprint
from mdr_core.study import claims_table, profiles

drawn_characters.IMAGES.update(pretrain=10, train=6, test=6)
fingerprint.DRAWING = "short"  # the runs on them have keys of their own
config.PRETRAINING = config.PRETRAINING.replace(epochs=1, iterations=5, train_images=150)
profiles.QUICK = profiles.QUICK.replace(iterations=3, train_images=150)
profiles.PROFILES["quick"] = {
    name: (profiles.QUICK, *rest) for name, (_, *rest) in profiles.PROFILES["quick"].items()
}
claims_table.GROUPS, claims_table.TURNS = 4, 2
