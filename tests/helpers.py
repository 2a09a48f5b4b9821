"What several test files share."
import subprocess, sys


def git(folder, *words):
    "Run git in a folder, insist on success, give its output."
    return subprocess.run(['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True, capture_output=True, text=True).stdout


def set_package_git(monkeypatch, state=lambda: None):
    "Say what the repository of vislearn looks like (None: installed from a wheel): its own is in whatever state while somebody works on it."
    import vislearn.runs.launch, vislearn.runs.rerun # noqa: F401 - every module that asks is loaded now
    asks = [m for n, m in list(sys.modules.items()) if n.startswith('vislearn.') and hasattr(m, 'package_git')]
    assert len(asks) > 2
    for module in asks: monkeypatch.setattr(module, 'package_git', state)
