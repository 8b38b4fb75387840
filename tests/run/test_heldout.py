import io
import math

import pytest
from PIL import Image

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion
from markovae.likelihood.measuring import measure
from markovae.run import heldout


def test_the_draw_is_fixed(tiny_model: Diffusion, tiny_data: ImageData, tiny_config: Config):
    rows = [heldout.held_out_row(tiny_model, tiny_data, tiny_config.train) for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0]["n"] == 4
    terms = rows[0]["terms_bits_per_dim"]
    assert sum(terms.values()) == pytest.approx(rows[0]["bits_per_dim"]["mean"], rel=1e-9)


def test_bands_of_all_levels_add_up_to_the_levels_term(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape)
    measured = measure(model, tiny_data.images[:3], draws=None)
    bands = heldout.band_table(measured, model.schedule.logsnr)
    assert len(bands) == heldout.BANDS
    total = sum(band["bits_per_dim"] for band in bands)
    assert total == pytest.approx(measured.to_dict()["terms_bits_per_dim"]["levels"], rel=1e-9)
    assert [band["logsnr"][0] for band in bands[1:]] == [band["logsnr"][1] for band in bands[:-1]]


def test_a_band_nothing_fell_into_has_no_figure(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape)
    measured = measure(model, tiny_data.images[:1], draws=2)
    bands = heldout.band_table(measured, model.schedule.logsnr)
    assert sum(band["bits_per_dim"] is not None for band in bands) <= 2


def test_a_grid_is_a_png_of_sixteen_samples(tiny_model: Diffusion, tiny_data: ImageData):
    picture = heldout.sample_grid(tiny_model, tiny_data)[0]
    image = Image.open(io.BytesIO(picture))
    assert image.size == (16 * 19, 16 * 19)  # four of four pixels and three gaps, enlarged to 64 a picture
    assert picture == heldout.sample_grid(tiny_model, tiny_data)[0]


def test_the_sentence_says_where_it_stands():
    row = {"step": 20, "n": 4, "bits_per_dim": {"mean": 3.0, "stderr": 0.1}}
    first = heldout.heldout_sentence(row, None, 256)
    assert (
        first == "held-out bound 3.000 ± 0.100 bits/dim on 4 images, the same draw each time; unmodelled pixels cost 8"
    )
    later = {**row, "step": 30, "bits_per_dim": {"mean": 2.5, "stderr": math.nan}}
    assert heldout.heldout_sentence({**later, "bits_per_dim": {"mean": 2.5, "stderr": None}}, row, 256) == (
        "held-out bound 2.500 bits/dim, down 0.500 since step 20"
    )
