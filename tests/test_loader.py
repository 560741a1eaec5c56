"""`import asymkv_gguf` loads the right libraries, or says in one sentence why it cannot. Each case is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import asymkv_gguf
from asymkv_gguf.native import loader


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """From a directory without a package in it, so that the installed one is imported."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0, result.stdout
    return result.stderr.strip().splitlines()[-1]


def test_llama_cpp_runs_on_our_libllama() -> None:
    import llama_cpp.llama_cpp

    native = loader.load()
    assert Path(llama_cpp.llama_cpp._lib._name) == native.library
    loaded = loader.loaded_libraries()
    assert any(path.samefile(native.library) for path in loaded)
    assert any(path.parent.samefile(native.ggml_dir) for path in loaded if loader.library_name(path) == "ggml-base")


def test_one_libllama_and_one_ggml_are_loaded(tmp_path: Path) -> None:
    """In a process of its own: other tests load libraries that they have built around a ggml."""
    code = """
        import asymkv_gguf
        from asymkv_gguf.native import loader
        print(*[loader.library_name(path) for path in loader.loaded_libraries()])
    """
    names = run_python(code, tmp_path).stdout.split()
    for name in ("llama", "ggml", "ggml-base"):
        assert names.count(name) == 1


def test_the_environment_is_as_it_was(tmp_path: Path) -> None:
    code = """
        import os
        before = dict(os.environ)
        import asymkv_gguf
        assert dict(os.environ) == before
    """
    assert run_python(code, tmp_path).returncode == 0
    assert run_python(code, tmp_path, LLAMA_CPP_LIB_PATH="/somewhere/else").returncode == 0


def test_llama_cpp_imported_first_is_refused_in_one_sentence(tmp_path: Path) -> None:
    result = run_python("import llama_cpp, asymkv_gguf", tmp_path)
    line = last_line(result)
    assert line.startswith("ImportError: this process has already loaded ")
    assert "llama_cpp" in line
    assert str(loader.load().library.parent) in line
    assert line.endswith("import asymkv_gguf before llama_cpp, in a fresh process")


def test_a_foreign_libllama_is_refused_however_it_was_loaded(tmp_path: Path) -> None:
    stock = loader.library_file(loader.binding_lib_dir(), "llama")
    assert stock is not None
    line = last_line(run_python(f"import ctypes; ctypes.CDLL({str(stock)!r}); import asymkv_gguf", tmp_path))
    assert line.startswith(f"ImportError: this process has already loaded {stock.resolve()}, but asymkv-gguf needs ")


def test_llama_cpp_imported_afterwards_is_ours(tmp_path: Path) -> None:
    code = """
        import asymkv_gguf, llama_cpp
        assert issubclass(asymkv_gguf.Llama, llama_cpp.Llama)
        assert "asymkv_gguf" in llama_cpp.llama_cpp._lib._name
    """
    assert run_python(code, tmp_path).returncode == 0


def test_another_version_of_llama_cpp_python_is_refused_with_both_versions(tmp_path: Path) -> None:
    code = """
        import importlib.metadata
        real = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.3.99" if name == "llama-cpp-python" else real(name)
        import asymkv_gguf
    """
    assert last_line(run_python(code, tmp_path)) == (
        "ImportError: asymkv-gguf needs llama-cpp-python 0.3.36, but 0.3.99 is installed; "
        "run: pip install llama-cpp-python==0.3.36"
    )


def test_a_missing_llama_cpp_python_is_named_with_the_remedy(tmp_path: Path) -> None:
    code = """
        import importlib.metadata
        real = importlib.metadata.version
        def version(name):
            if name == "llama-cpp-python":
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)
        importlib.metadata.version = version
        import asymkv_gguf
    """
    assert last_line(run_python(code, tmp_path)) == (
        "ImportError: asymkv-gguf needs llama-cpp-python 0.3.36, which is not installed; "
        "run: pip install llama-cpp-python==0.3.36"
    )


def test_a_build_with_a_backend_suffix_is_the_same_version(tmp_path: Path) -> None:
    code = """
        import importlib.metadata
        real = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.3.36+cu124" if name == "llama-cpp-python" else real(name)
        import asymkv_gguf
    """
    assert run_python(code, tmp_path).returncode == 0


def test_a_missing_library_is_named_with_the_remedy(tmp_path: Path) -> None:
    line = last_line(run_python("import asymkv_gguf", tmp_path, ASYMKV_GGUF_NATIVE=str(tmp_path)))
    assert line.startswith(f"ImportError: asymkv-gguf's libllama is missing from {tmp_path / 'lib'}; ")


def test_a_llama_cpp_python_without_ggml_is_named_with_the_remedy(tmp_path: Path) -> None:
    # as pip installs it with CMAKE_ARGS=-DLLAMA_BUILD=OFF
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").touch()
    result = run_python("import asymkv_gguf", tmp_path, PYTHONPATH=str(tmp_path))
    if loader.load().bundled:
        assert "has none" not in result.stderr
    else:
        assert f"but {tmp_path / 'llama_cpp' / 'lib'} has none" in last_line(result)


def test_the_wheel_carries_upstreams_licences() -> None:
    directory = loader.load().library.parent.parent / "licenses"
    assert "The ggml authors" in (directory / "LICENSE.llama.cpp").read_text()
    assert "Andrei Betlen" in (directory / "LICENSE.llama-cpp-python").read_text()


def test_the_package_knows_its_version() -> None:
    assert asymkv_gguf.__version__[0].isdigit()
