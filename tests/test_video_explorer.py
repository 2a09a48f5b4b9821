"The explorer of films: every slider changes the picture, and the samples are those of the library"
import io

import numpy as np, pytest, torch
from PIL import Image
from vislearn.clips import Clip, Clips, write_clips
from vislearn.core import UserError
from vislearn.runs.config import Part
from vislearn.synth.fabric import pushed_disc
from vislearn.synth.smmnist import MovingDigits
from vislearn.video import explore as short
from vislearn.video.explorer import FilmView, FuturesView, explore, view_of
from vislearn.video.generate import generate
from vislearn.video.legacy import svg_to_legacy
from vislearn.video.metrics import psnr
from vislearn.video.recipes import svg_nano
from vislearn.video.svg import SVG, SVGConfig
from vislearn.video.train import train_svg


class Parts:
    "The widgets of an explorer by name."
    def __init__(self, box): (self.film, self.count), (self.time, self.play), self.picture = box.children[0].children, box.children[1].children, box.children[2]
    @property
    def pixels(self): return np.asarray(Image.open(io.BytesIO(self.picture.value)))


def small(prior='learned', **fields):
    torch.manual_seed(0); return SVG(SVGConfig(**dict(nf=4, g_dim=8, z_dim=0 if prior == 'none' else 2, rnn_size=8, predictor_rnn_layers=1, prior=prior, n_past=2, n_future=3) | fields)).eval()


@pytest.fixture(scope='module')
def digits(): return MovingDigits('test', 12, 1, digits='sklearn', n=3)


def test_every_slider_changes_the_picture(digits):
    model = small()
    for p in model.parameters(): p.data.mul_(3) if p.ndim > 1 else None # so that samples differ
    parts = Parts(explore(model, digits, n_samples=6)); seen = [parts.pixels]
    assert parts.time.max == 7 and parts.count.value == 6 and parts.film.max == 2 and parts.play.max == 7
    for slider, value in ((parts.time, 5), (parts.film, 2), (parts.count, 1)):
        slider.value = value; seen.append(parts.pixels); assert not np.array_equal(seen[-1], seen[-2]), slider.description
    parts.film.value, parts.time.value, parts.count.value = 0, 0, 6; assert np.array_equal(parts.pixels, seen[0])


def test_samples_are_those_of_generate(digits):
    model = small(); view = FuturesView(model, digits, n_future=4, n_samples=5, seed=3); got = view.sampled(2)
    films = digits.batch([2])[:, :6]; want = generate(model, films, 4, n_samples=5, seed=3, first=2)
    assert torch.equal(got.samples, want.frames[:, 0]) and torch.allclose(got.psnr, psnr(want.frames[:, 0], films[0, 2:].float()/255))
    with torch.no_grad(): prior = model(films)[4]
    assert got.sigma.shape == (5, 5) and torch.allclose(got.sigma[:, 0], (prior[0, 0]/2).exp().mean().expand(5), atol=1e-5)   # on seen frames the prior does not depend on samples
    assert torch.allclose(got.sigma[:, 1:], (want.prior_logvar[:, 0]/2).exp().mean(-1))
    rows = view.rows(2); level = got.psnr.mean(1)
    assert torch.equal(rows['best'][2:], got.samples[level.argmax()]) and torch.equal(rows['worst'][2:], got.samples[level.argmin()]) and torch.allclose(rows['mean'][2:], got.samples.mean(0))
    assert torch.equal(view.rows(2, 1)['best'], view.rows(2, 1)['worst']) and view.sampled(2) is got


def test_fewer_samples_never_make_the_best_better(digits):
    view = FuturesView(small(), digits, n_samples=8); level = view.sampled(0).psnr.mean(1)
    assert all(level[:n].max() <= level[:n + 1].max() for n in range(1, 8))


def test_films_of_different_lengths(digits):
    rng = np.random.default_rng(0); clips = Clips.of([Clip(rng.integers(0, 255, (n, 64, 64, 1), np.uint8), None, f'film {n}') for n in (2, 9, 3, 6)])
    parts = Parts(explore(small(), clips, n_samples=2)); assert parts.film.max == 2 and parts.time.max == 7   # the first is too short for one prediction
    parts.time.value = 7; parts.film.value = 1; assert parts.time.max == 2 and parts.time.value == 2 and parts.play.max == 2
    with pytest.raises(ValueError, match='no film has 3 frames'): FuturesView(small(), clips.select([0]))


def test_actions_depth_and_models_without_doubt():
    discs = pushed_disc(2, 5); model = small(image_width=56, channels=4, actions='learned', act_dim=4, n_past=1)
    parts = Parts(explore(model, discs, n_samples=3)); before = parts.pixels; parts.time.value = 3; assert not np.array_equal(before, parts.pixels)
    view = FuturesView(model, discs, n_samples=3); assert view.sampled(0).sigma.shape == (3, 5) and view.strip(0).get_size_inches()[1] > 3
    sure = FuturesView(small('none', image_width=56, channels=4), discs, n_samples=3); assert list(sure.rows(0)) == ['truth', 'prediction'] and sure.sampled(0).sigma is None
    assert len(sure.strip(0).axes) == 1 and len(sure.figure(0, 3).axes) == 4
    fixed = FuturesView(small('fixed', image_width=56, channels=4), discs, n_samples=3); assert fixed.sampled(0).sigma is None and len(fixed.rows(0)) == 4
    films = Parts(explore(discs)); before = films.pixels; films.time.value = 4; assert not np.array_equal(before, films.pixels) and films.count.disabled


def test_run_by_id_and_stored_films(tmp_path):
    cfg = svg_nano(epochs=1, bs=2); cfg = cfg.replace(model=Part(name='dcgan', params=cfg.model.params | dict(nf=4, g_dim=8, rnn_size=8)), data=cfg.data.replace(train=Part(name='smmnist', params=dict(epoch_size=1, valid_films=2))))
    run = train_svg(cfg, out=tmp_path/'runs', policy='record'); view = view_of(run.id, root=tmp_path/'runs')
    assert isinstance(view, FuturesView) and view.length(0) == 3 + 2*5 and view.films.split == 'test' and len(view_of(run).rows(0)) == 4
    clips = write_clips('x', {}, lambda: [Clip(np.zeros((4, 64, 64, 1), np.uint8), None, 'a')], tmp_path)
    assert isinstance(view_of(clips.path), FilmView) and view_of(clips.path).name(0) == 'a' and short(clips) is not None
    assert isinstance(view_of(np.zeros((2, 5, 64, 64, 1), np.uint8)), FilmView)
    old = svg_to_legacy(run.load_model(), tmp_path/'model.pth'); films = MovingDigits('test', 6, 1, digits='sklearn', n=2)
    assert torch.allclose(view_of(old, films, n_samples=2).sampled(1).samples, FuturesView(run.load_model(), films, n_samples=2).sampled(1).samples, atol=1e-5)
    with pytest.raises(UserError, match='has no films'): view_of(old)


def test_the_model_is_left_as_it_was(digits):
    model = small().train(); before = {k: v.clone() for k, v in model.state_dict().items()}
    FuturesView(model, digits, n_samples=2).figure(0, 3)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
