"Importing costs little and needs neither a GPU nor a fitting torchvision"
import json, subprocess, sys
from pathlib import Path

TOP = Path(__file__).parents[1]
MODULES = ['vislearn.'+'.'.join(p.relative_to(TOP/'vislearn').with_suffix('').parts) for p in sorted((TOP/'vislearn').rglob('*.py')) if not p.name.startswith('_')]


def fresh(code):
    "Run code in a fresh process and return the JSON it prints last."
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    return json.loads(r.stdout.splitlines()[-1])


def test_light_imports():
    heavy = ('torchvision', 'spacy', 'fastai.vision', 'tensorboard', 'matplotlib.pyplot', 'IPython', 'ipywidgets', 'jupyterlab')
    loaded = fresh(f"import importlib, sys, json\nfor m in {MODULES}: importlib.import_module(m)\n"
                   f"import torch; print(json.dumps([m for m in {heavy} if m in sys.modules] + (['cuda'] if torch.cuda.is_initialized() else [])))")
    # fastai.basics itself imports pyplot and IPython; vislearn may cost what it costs, and no more
    basics = fresh(f"import sys, json, fastai.basics\nprint(json.dumps([m for m in {heavy} if m in sys.modules]))")
    assert set(loaded) <= set(basics), f'imported too early: {sorted(set(loaded)-set(basics))}'


def test_every_module_alone():
    "Each module imports by itself (no hidden order)."
    assert fresh("import importlib, sys, json, subprocess\n"
                 f"bad = []\nfor m in {MODULES}:\n"
                 "    for k in [k for k in sys.modules if k.split('.')[0] == 'vislearn']: del sys.modules[k]\n"
                 "    try: importlib.import_module(m)\n    except Exception as e: bad.append(f'{m}: {e}')\nprint(json.dumps(bad))") == []


def test_A29_torchvision_guard():
    "fastai.vision imports beside a torchvision whose compiled part may not fit."
    assert fresh("from vislearn.core import import_torchvision\ntv = import_torchvision()\nfrom fastai.vision.all import *\nimport json\n"
                 "print(json.dumps(sum(p.numel() for p in tv.models.resnet18().parameters())))") == 11_689_512
