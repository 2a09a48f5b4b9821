"The projector files: read by TensorBoard's own code, the same numbers as its slow writer, and fast."
import time
import numpy as np, pytest, torch
from PIL import Image
from vislearn.runs.projector import export_projector, sprite_sheet

def parsed(folder):
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
    return text_format.Parse((folder/'projector_config.pbtxt').read_text(), ProjectorConfig()).embeddings[0]

def test_tensorboard_reads_it(tmp_path):
    rng = np.random.default_rng(0); x = rng.normal(size=(10, 4)).astype(np.float32); pictures = rng.integers(0, 255, (10, 8, 8, 3), dtype=np.uint8)
    info = parsed(export_projector(tmp_path, x, dict(terrain=list('abcdefghij'), cost=range(10)), pictures, name='embed-train'))
    assert (info.tensor_name, list(info.tensor_shape), info.tensor_path, info.metadata_path, info.sprite.image_path)==('embed-train', [10, 4], 'tensors.bytes', 'metadata.tsv', 'sprite.png')
    side = list(info.sprite.single_image_dim); sheet = np.asarray(Image.open(tmp_path/'sprite.png'))
    assert side==[32, 32] and sheet.shape==(4*32, 4*32, 3) # 4 pictures per row
    for i in (0, 3, 4, 9): # picture i is in row i // 4, column i % 4
        cell = sheet[i//4*32:(i//4 + 1)*32, i%4*32:(i%4 + 1)*32]; assert abs(cell.mean(axis=(0, 1)) - pictures[i].mean(axis=(0, 1))).max()<3
    assert len((tmp_path/'metadata.tsv').read_text().splitlines())==11

def test_same_numbers_as_the_slow_writer(tmp_path):
    from torch.utils.tensorboard._embedding import make_mat
    x = torch.randn(50, 8); make_mat(x, str(tmp_path)); export_projector(tmp_path/'fast', x, ['a']*50)
    slow = np.loadtxt(tmp_path/'tensors.tsv', delimiter='\t'); fast = np.frombuffer((tmp_path/'fast'/'tensors.bytes').read_bytes(), '<f4').reshape(50, 8)
    assert np.abs(slow - fast).max()<1e-6

def test_ten_thousand_by_64_under_a_second(tmp_path):
    x, labels = torch.randn(10_000, 64), ['grass']*10_000; best = 9.
    for i in range(3): start = time.perf_counter(); export_projector(tmp_path/str(i), x, labels); best = min(best, time.perf_counter() - start)
    assert best<1

@pytest.mark.parametrize('n', [1, 2, 4, 5, 300])
def test_sheets_are_square_and_fit(n, monkeypatch):
    monkeypatch.setattr('vislearn.runs.projector.SHEET', 100)
    sheet = sprite_sheet(torch.zeros(n, 3, 2, 2), size=60); k = int(np.ceil(np.sqrt(n)))
    assert sheet.shape[0]==sheet.shape[1]<=100 and sheet.shape[0] % k==0
