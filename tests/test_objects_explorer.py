"The explorer of scenes: every slider changes the picture, and what it shows is what the library says"
import io

import numpy as np, pytest, torch
from PIL import Image
from vislearn.core import DataError, UserError
from vislearn.objects.clips import ObjectClips, sprite_clips
from vislearn.objects.evaluate import encode_clips
from vislearn.objects.explorer import ClipsView, SceneView, clips_of, component_picture, explore, explore_static, view_of
from vislearn.objects.legacy import save_space_checkpoint
from vislearn.objects.metrics import detection_metrics
from vislearn.objects.recipes import space_nano
from vislearn.objects.space import Space, SpaceConfig
from vislearn.objects.train import train_space
from vislearn.synth.sprites import SpriteWorld


class Parts:
    "The widgets of an explorer by name."
    def __init__(self, box): (self.clip, self.level), (self.frame, self.play, self.says), self.picture = box.children[0].children, box.children[1].children, box.children[2]
    @property
    def pixels(self): return np.asarray(Image.open(io.BytesIO(self.picture.value)))


@pytest.fixture(scope='module')
def films(tmp_path_factory): return sprite_clips(SpriteWorld.preset('nano'), 6, root=tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='module')
def model():
    "A network that has learnt nothing, but sees objects with all kinds of confidence."
    torch.manual_seed(0); net = Space(SpaceConfig.nano()).eval()
    for p in net.fg_module.img_encoder.parameters(): p.data.mul_(4) if p.ndim > 1 else None
    return net


def test_every_slider_changes_the_picture(model, films):
    parts = Parts(explore(model, films)); seen = [parts.pixels]
    assert (parts.clip.max, parts.frame.max, parts.play.max, parts.level.value) == (5, 3, 3, .5) and 'precision' in parts.says.value
    for slider, value in ((parts.clip, 3), (parts.frame, 2), (parts.level, .9)):
        words = parts.says.value; slider.value = value; seen.append(parts.pixels); assert not np.array_equal(seen[-1], seen[-2]), slider.description
    assert parts.says.value != words
    parts.clip.value, parts.frame.value, parts.level.value = 0, 0, .5; assert np.array_equal(parts.pixels, seen[0])


def test_boxes_codes_and_scores_are_those_of_the_library(model, films):
    view = SceneView(model, films, most=4); want = encode_clips(model.encode, films, 4, thresh=.3)
    got = view.found(.3); assert len(got.conf) == len(want.found.conf) > 5 and np.allclose(got.xyxy, want.found.xyxy, atol=1e-5) and np.allclose(got.code, want.found.code, atol=1e-4)
    for i, t in ((0, 0), (2, 3)): assert np.allclose(view.boxes(i, t, .3).xyxy, want.found.of(i*4 + t).xyxy, atol=1e-4)
    truth = films.things.where(films.things.frame < 16); scores = detection_metrics(want.found, truth, 16, 'relevant')
    assert view.scores(.3) == pytest.approx({k: scores[k] for k in ('precision', 'recall', 'fscore')}, nan_ok=True)
    assert len(view.boxes(0, 0, .99999).conf) == 0 and len(view.figure(0, 0, .99999).axes) == 10   # empty scenes are no trouble


def test_the_threshold_moves_boxes_and_cells_but_not_the_map(model, films):
    view = SceneView(model, films); low, high = view.figure(1, 2, .1), view.figure(1, 2, .9)
    n = lambda fig, k: len(fig.axes[k].patches); truth = films.things.of(6).n
    for fig, thresh in ((low, .1), (high, .9)): assert n(fig, 0) - truth == n(fig, 4) == len(view.boxes(1, 2, thresh).conf)
    assert n(low, 4) > n(high, 4); at, _ = view.code_points(); view.figure(0, 0, .7); assert view.code_points()[0] is at
    drawn = lambda fig: sum(len(c.get_offsets()) for c in fig.axes[8].collections[:-1]); assert drawn(low) == len(view.found(.1).conf) > drawn(high) == len(view.found(.9).conf)


def test_clips_without_labels_or_model(model, films):
    bare = films.frames[np.arange(6)].copy(); view = SceneView(model, bare); assert view.scores() == {} and view.figure(0, 0).axes[9].get_ylabel() == 'objects per frame'
    parts = Parts(explore(bare)); before = parts.pixels; parts.frame.value = 3; assert parts.level.disabled and not np.array_equal(before, parts.pixels)
    fig = ClipsView(films, G=4).figure(2, 1); marks = films.marks.of(9)
    assert len(fig.axes[0].patches) == films.things.of(9).n and len(fig.axes[1].patches) == marks.n and fig.axes[2].images[0].get_array().sum() == films.hints(4)[0][2, 1].sum()
    assert np.array_equal(fig.axes[1].images[0].get_array(), films.motion([2])[0, 1])


def test_components_are_mixed_by_their_share():
    masks = torch.zeros(3, 1, 2, 2); masks[0, 0, 0] = 1; masks[1, 0, 1] = .5; masks[2, 0, 1] = .5; got = component_picture(masks)
    assert got.shape == (2, 2, 3) and np.allclose(got[0], np.array([0, 0x72, 0xb2])/255) and np.allclose(got[1], (np.array([0xe6, 0x9f, 0]) + np.array([0, 0x9e, 0x73]))/510)


def test_runs_checkpoints_and_folders(tmp_path, films):
    cfg = space_nano(steps=2, bs=2, n=8); cfg = cfg.replace(data=cfg.data.replace(eval=None)); run = train_space(cfg, out=tmp_path/'runs', train=films, test=films, policy='record', device='cpu')
    view = view_of(run.id, films, root=tmp_path/'runs'); assert isinstance(view, SceneView) and int(view.model.step) == 1 and len(view.strip(0).axes) > 10
    assert not isinstance(view_of(films.path), SceneView) and len(view_of(str(films.path))) == 6 and len(explore_static(run, films, 2, 1).axes) == 10
    full = Space(SpaceConfig(size=64, G=4, K=2)); save_space_checkpoint(full, tmp_path/'model.pth'); zeros = np.zeros((1, 2, 64, 64, 3), np.uint8)
    old = view_of(tmp_path/'model.pth', zeros); assert old.model.cfg.G == 4 and old.figure(0, 1).axes[6].get_title() == 'components'
    with pytest.raises(UserError, match='has none, give a set of clips'): view_of(tmp_path/'model.pth')


def test_wrong_input_in_one_line(model, films):
    with pytest.raises(DataError, match='32x32 pixels, got 64x64.*size=32'): SceneView(model, np.zeros((1, 2, 64, 64, 3), np.uint8))
    with pytest.raises(DataError, match='uint8'): clips_of(np.zeros((1, 2, 32, 32, 3)))
    with pytest.raises(DataError, match='empty'): ClipsView(films.select([]))
    with pytest.raises(UserError, match='a model alone has none'): view_of(model)
    with pytest.raises(UserError, match='got int'): view_of(3)
    assert isinstance(clips_of(films), ObjectClips)


def test_the_model_is_left_as_it_was(model, films):
    model.train(); before = {k: v.clone() for k, v in model.state_dict().items()}; SceneView(model, films).figure(0, 1)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items()); model.eval()
