"What several test files share."
import subprocess, sys

import numpy as np
from PIL import Image


def git(folder, *words):
    "Run git in a folder, insist on success, give its output."
    return subprocess.run(['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True, capture_output=True, text=True).stdout


def set_package_git(monkeypatch, state=lambda: None):
    "Say what the repository of vislearn looks like (None: installed from a wheel): its own is in whatever state while somebody works on it."
    import vislearn.runs.launch, vislearn.runs.rerun # noqa: F401 - every module that asks is loaded now
    asks = [m for n, m in list(sys.modules.items()) if n.startswith('vislearn.') and hasattr(m, 'package_git')]
    assert len(asks) > 2
    for module in asks: monkeypatch.setattr(module, 'package_git', state)


def noise(n, h=24, w=32, seed=0):
    "Smooth moving frames that survive a codec."
    t, y, x = np.mgrid[:n, :h, :w]; phase = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([127 + 100*np.sin(x/5 + t/4 + p)*np.cos(y/6 + p) for p in phase], -1).astype(np.uint8)


def pictures(folder, frames, form='{}.png'):
    folder.mkdir(parents=True, exist_ok=True)
    for i, f in enumerate(frames): Image.fromarray(f.squeeze()).save(folder/form.format(i))


def video(path, frames, rate=25, codec='mpeg4', options=None, times=None):
    import av
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', options=options or {}) as film:
        stream = film.add_stream(codec, rate=rate); stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], 'yuv420p', 8_000_000
        for i, f in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(f, format='rgb24')
            if times: frame.pts = times[i]
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path
