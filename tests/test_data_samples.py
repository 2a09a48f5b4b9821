"The committed samples are the ones tools/make_data.py makes, and they are what data/README.md says"
import hashlib, importlib.util, io, json, re
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from rosbags.highlevel import AnyReader
from vislearn.robot.msgs import typestore

TOP = Path(__file__).resolve().parents[1]
DATA = TOP/'data'
LISTED = {m[1]: m[2] for m in re.finditer(r'\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|', (DATA/'README.md').read_text())}

@pytest.fixture(scope='module')
def remade(tmp_path_factory):
    spec = importlib.util.spec_from_file_location('make_data', TOP/'tools'/'make_data.py'); tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool)
    out = tmp_path_factory.mktemp('data'); tool.make(out, list(tool.GENERATORS)); return out

def messages(path:Path)->list:
    with AnyReader([path], default_typestore=typestore('flat', 2)) as r: return [(c.topic, t, r.deserialize(raw, c.msgtype)) for c, t, raw in r.messages()]

def numbers(msg)->list:
    "All numbers of a message, images decoded"
    if hasattr(msg, 'format'): return np.asarray(Image.open(io.BytesIO(msg.data.tobytes()))).astype(float).ravel().tolist()
    if hasattr(msg, '__dataclass_fields__'): return [x for f in msg.__dataclass_fields__ for x in numbers(getattr(msg, f))]
    if isinstance(msg, np.ndarray): return msg.astype(float).tolist()
    if isinstance(msg, (list, tuple)): return [x for v in msg for x in numbers(v)]
    return [float(msg)] if isinstance(msg, (int, float)) else []

def test_every_file_is_listed_with_its_hash():
    files = {p.relative_to(DATA).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in DATA.rglob('*') if p.is_file() and p.parts[len(DATA.parts)]!='real' and p!=DATA/'README.md'}
    assert files==LISTED and len(files)>=7
    size = lambda folder: sum((DATA/f).stat().st_size for f in files if f.startswith(folder))
    assert size('terrain/') <= 1_500_000 and size('cloth/') <= 1_200_000 and size('') <= 5_000_000

@pytest.mark.parametrize('name', ['concrete.bag', 'grass', 'marble_rock'])
def test_bags_can_be_remade(remade, name):
    "Byte for byte; on a machine whose arithmetic rounds otherwise, message for message"
    same = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()==LISTED[p.relative_to(remade).as_posix()]
    new = remade/'terrain'/name
    if all(same(p) for p in ([new] if new.is_file() else new.iterdir())): return
    got, want = messages(new), messages(DATA/'terrain'/name)
    assert [(t, ns) for t, ns, _ in got]==[(t, ns) for t, ns, _ in want]
    for (topic, _, a), (_, _, b) in zip(got, want):
        a, b = np.array(numbers(a)), np.array(numbers(b))
        assert a.shape==b.shape and abs(a - b).mean() < (1. if 'compressed' in topic else 1e-6), topic

def test_cloth_films_can_be_remade(remade):
    "Byte for byte; on a machine whose arithmetic rounds otherwise, the same actions, and pictures that begin alike"
    new, old = remade/'cloth'/'cloth_32.npz', DATA/'cloth'/'cloth_32.npz'
    if hashlib.sha256(new.read_bytes()).hexdigest()==LISTED['cloth/cloth_32.npz']: return
    with np.load(new) as a, np.load(old) as b:
        assert {k: (v.shape, v.dtype) for k, v in a.items()}=={k: (v.shape, v.dtype) for k, v in b.items()}
        assert (a['seed']==b['seed']).all() and (a['tier']==b['tier']).all() and abs(a['actions'][:, 0] - b['actions'][:, 0]).max()<.05
        assert abs(a['images'][:, 0].astype(float) - b['images'][:, 0]).mean()<1 and abs(a['coverage'].mean(0) - b['coverage'].mean(0)).max()<.05

def test_specification_can_be_remade(remade):
    got, want = (json.loads((d/'terrain'/'train.json').read_text()) for d in (remade, DATA))
    assert got['categories']==want['categories'] and got['orderings']==want['orderings'] and got['bev'].keys()==want['bev'].keys()
    for name, (datum,) in want['categories'].items(): assert (DATA/'terrain'/datum['path']).exists(), name

def test_readme_is_the_one_the_tool_writes(remade):
    line = lambda s: [re.sub(r'\| \d+ \| `[0-9a-f]{64}` \|', '', x) for x in s.splitlines()]
    assert line((remade/'README.md').read_text())==line((DATA/'README.md').read_text())
