"Digits from files of the IDX format and from scikit-learn"
import gzip, hashlib

import numpy as np, pytest
from PIL import Image

from vislearn.core import ConfigError, DataError
from vislearn.synth.digits import digit_images, find_mnist, load_idx, resize_grey


def idx_bytes(array, code=8): return bytes([0, 0, code, array.ndim]) + np.array(array.shape, '>u4').tobytes() + array.tobytes()


@pytest.mark.parametrize('code,dtype', [(8, '>u1'), (9, '>i1'), (11, '>i2'), (12, '>i4'), (13, '>f4'), (14, '>f8')])
@pytest.mark.parametrize('packed', [False, True])
def test_every_type_comes_back(tmp_path, code, dtype, packed):
    array = (np.random.default_rng(code).normal(size=(3, 4, 5))*50).astype(dtype); raw = idx_bytes(array, code)
    (tmp_path/'x').write_bytes(gzip.compress(raw) if packed else raw); found = load_idx(tmp_path/'x')
    assert found.dtype == np.dtype(dtype).newbyteorder('=') and found.dtype.isnative and np.array_equal(found, array) and found.flags.writeable


def test_damaged_files_are_one_line_each(tmp_path):
    good, path = gzip.compress(idx_bytes(np.zeros((2, 3), np.uint8))), tmp_path/'x.gz'
    broken = bytearray(good); broken[len(good)//2] ^= 255
    for content in (good[:-3], bytes(broken), good[:12], idx_bytes(np.zeros((2, 3), np.uint8))[:-1], idx_bytes(np.zeros(3, np.uint8)) + b'x', b'hello', b'', b'\0\0\x08\xff'):
        path.write_bytes(content)
        with pytest.raises(DataError) as e: load_idx(path)
        assert str(path) in str(e.value) and '\n' not in str(e.value)


def test_huge_sizes_in_a_header_do_not_overflow(tmp_path):
    (tmp_path/'x').write_bytes(bytes([0, 0, 8, 3]) + b'\xff'*12)
    with pytest.raises(DataError, match='cut off'): load_idx(tmp_path/'x')


def test_resizing_is_pillows_and_a_slow_bilinear_agrees():
    image = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8); big = resize_grey(image, 32)
    for one, two in zip(image, big): assert np.array_equal(np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BILINEAR)), two)
    at = np.clip((np.arange(32) + .5)*28/32 - .5, 0, 27); low = np.floor(at).astype(int); high = np.minimum(low + 1, 27); w = at - low
    rows = image[:, low]*(1 - w)[:, None] + image[:, high]*w[:, None]; slow = rows[..., low]*(1 - w) + rows[..., high]*w
    assert np.abs(slow - big).max() <= 1.01


def test_sklearn_split_is_the_first_1500():
    from sklearn.datasets import load_digits
    every, train, test = load_digits(), digit_images('sklearn', 'train', native=True), digit_images('sklearn', 'test', native=True)
    assert (len(train.images), len(test.images), train.name) == (1500, 297, 'sm-digits') and np.array_equal(np.r_[train.labels, test.labels], every.target)
    small = np.rint(every.images*(255/16)).astype(np.uint8)
    assert np.array_equal(resize_grey(small[:5], 28), train.images[:5]) and np.array_equal(resize_grey(small[1500:1505], 28), test.images[:5])


def write_mnist(folder, split, value, n=3, labels=True):
    part = dict(train='train', test='t10k')[split]; folder.mkdir(parents=True, exist_ok=True)
    (folder/f'{part}-images-idx3-ubyte').write_bytes(idx_bytes(np.full((n, 28, 28), value, np.uint8)))
    if labels: (folder/f'{part}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx_bytes(np.arange(n, dtype=np.uint8))))


@pytest.mark.parametrize('layout', ['.', 'mnist', 'raw', 'MNIST/raw'])
def test_auto_takes_the_users_mnist_in_any_layout(tmp_path, layout):
    write_mnist(tmp_path/layout, 'train', 7); write_mnist(tmp_path/layout, 'test', 9, labels=False)
    train, test = (digit_images('auto', s, tmp_path) for s in ('train', 'test'))
    assert (train.name, train.images.shape, train.images.max(), train.labels.tolist()) == ('mnist', (3, 32, 32), 7, [0, 1, 2])
    assert test.images.max() == 9 and test.labels.tolist() == [-1]*3, 'labels come from beside the pictures or not at all'


def test_auto_without_both_splits_is_sklearn(tmp_path, monkeypatch):
    import vislearn.synth.digits as module
    monkeypatch.setattr(module, 'real_data', lambda name: None)
    assert digit_images('auto', root=tmp_path).name == 'sm-digits'
    write_mnist(tmp_path, 'test', 9)
    assert digit_images('auto', root=tmp_path).name == 'sm-digits' and find_mnist('train', tmp_path) is None
    with pytest.raises(DataError, match='train-images-idx3-ubyte.*sklearn'): digit_images('mnist', 'train', tmp_path)
    write_mnist(tmp_path, 'train', 7)
    assert digit_images('auto', root=tmp_path).name == 'mnist'


def test_folders_of_png_files_are_mnist_too(tmp_path):
    rng = np.random.default_rng(0); digits = {s: rng.integers(0, 256, (10, 2, 28, 28), np.uint8) for s in ('train', 'test')}
    for split, name in (('train', 'training'), ('test', 'testing')):
        for k in range(10):
            folder = tmp_path/'mnist_png'/name/str(k); folder.mkdir(parents=True)
            for i in range(2): Image.fromarray(digits[split][k, i]).save(folder/f'{i}.png')
    for split in digits:
        found = digit_images('auto', split, tmp_path, native=True)
        assert found.name == 'mnist' and np.array_equal(found.images, digits[split].reshape(-1, 28, 28)) and found.labels.tolist() == np.repeat(range(10), 2).tolist()
    (tmp_path/'mnist_png'/'training'/'3'/'0.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match='do not decode'): digit_images('mnist', 'train', tmp_path)


def test_wrong_contents_are_named(tmp_path):
    write_mnist(tmp_path, 'train', 7); (tmp_path/'train-images-idx3-ubyte').write_bytes(idx_bytes(np.zeros((3, 28), np.uint8)))
    with pytest.raises(DataError, match=r'expected uint8 pictures \(N, height, width\), got uint8 \(3, 28\)'): digit_images('mnist', 'train', tmp_path)
    for wrong in (lambda: digit_images('mnist', 'valid'), lambda: digit_images('kmnist')):
        with pytest.raises(ConfigError): wrong()


@pytest.mark.skipif(find_mnist('train') is None, reason='the training digits of MNIST are not installed here')
def test_real_mnist_is_mnist():
    path = find_mnist('train'); raw = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    assert hashlib.md5(raw).hexdigest() == '6bbc9ace898e44ae57da46a324031adb'
    native, big = digit_images('mnist', native=True), digit_images('mnist')
    assert native.images.shape == (60_000, 28, 28) and big.images.shape == (60_000, 32, 32) and native.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert abs(native.images.mean()/255 - .1307) < 5e-5 and abs(native.images.std()/255 - .3081) < 5e-5
