"Exported cost models: calibration by hand, files that do not belong together."
import json
import numpy as np, pytest, torch
from vislearn.core import ConfigError, DataError
from vislearn.terrain.artefact import CostModel, calibrate, calibrated, load_artefact, save_artefact
from vislearn.terrain.nets import CostNet, EmbeddingNet, FullCostNet

CARD = dict(patch_px=32, channel_order='rgb', categories=['a', 'b'])

def net(dim=8):
    torch.manual_seed(0); return FullCostNet(EmbeddingNet(dim), CostNet(dim)).eval()

def test_calibration_by_hand():
    cal = calibrate(np.array([0., 1, 2, 10, 20, 30]), np.array(['a']*3 + ['b']*3))
    assert cal['categories']['a']==dict(median=1., p95=1.9) and cal['categories']['b']['median']==20 and cal['low']==1 and abs(cal['high']-29)<1e-9
    assert np.allclose(calibrated(np.array([[0., 1], [15, 99]]), cal, 99), [[0, 0], [49.5, 99]]) and calibrated(torch.tensor([1.]), cal).dtype==np.float32
    same = calibrate(np.ones(4), ['a']*4); assert np.isfinite(calibrated(np.ones(4), same)).all()

@pytest.mark.parametrize('format', ['torchscript', 'export'])
def test_round_trip(tmp_path, format):
    model, x = net(), torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8); path = save_artefact(model, CARD, tmp_path, 'm', format)
    for where in (path, path.with_suffix('.json')):
        got = load_artefact(where); assert torch.allclose(got(x), model(x).detach()[:, 0], atol=1e-6) and got.card['dim']==8 and got(x[:1]).shape==(1,) and got(x[:0]).shape==(0,)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]

def test_batches_do_not_matter():
    model, x = net(), torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    assert torch.allclose(CostModel(model, CARD, bs=2)(x), CostModel(model, CARD)(x), atol=1e-6)

def test_bad_files_and_input(tmp_path):
    path = save_artefact(net(), CARD, tmp_path); card = json.loads(path.with_suffix('.json').read_text()); model = load_artefact(tmp_path)
    with pytest.raises(DataError, match='must be uint8'): model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(DataError, match=r'patches must be \(B, 3, 32, 32\)'): model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="torchscript or export, got 'onnx'"): save_artefact(net(), CARD, tmp_path, format='onnx')
    with pytest.raises(DataError, match='no card'): load_artefact(tmp_path/'other.pt')
    path.with_suffix('.json').write_text(json.dumps(card | dict(format='vislearn-cost-0')))
    with pytest.raises(DataError, match='written in format vislearn-cost-0, this vislearn reads vislearn-cost-1'): load_artefact(path)
    path.with_suffix('.json').write_text(json.dumps(card)); save_artefact(net(6), CARD, tmp_path/'x'); (tmp_path/'x'/'cost_model.pt').replace(path)
    with pytest.raises(DataError, match='is not the program that its card describes'): load_artefact(path)
    path.unlink()
    with pytest.raises(DataError, match='its program cost_model.pt is missing'): load_artefact(tmp_path)
    path.with_suffix('.json').write_text('{')
    with pytest.raises(DataError, match='not valid JSON'): load_artefact(tmp_path)
