#!/usr/bin/env bash
# Triton (the tritonserver binary inside the wheel nvidia-pytriton), onnxruntime run by Triton's own python backend.
. "$(dirname "$0")/env.sh"
. "$HERE/triton_repo.sh"
P=$("$VENV/pytriton/bin/python" -c 'import pytriton,os;print(os.path.dirname(pytriton.__file__))')/tritonserver
B=$PEERS_HOME/triton/backends
mkdir -p "$B/python"
[ -e "$B/python/libtriton_python.so" ] || cp "$P"/backends/python/* "$P/python_backend_stubs/$("$VENV/pytriton/bin/python" -c "import sys; print(\"%d.%d\" % sys.version_info[:2])")/triton_python_backend_stub" "$B/python/"
# the python stub finds its interpreter's packages by these
export PATH=$VENV/pytriton/bin:$PATH PYTHONPATH=$HERE:$("$VENV/pytriton/bin/python" -c 'import site;print(site.getsitepackages()[0])')
export LD_LIBRARY_PATH=$("$VENV/pytriton/bin/python" -c "import sysconfig;print(sysconfig.get_config_var(\"LIBDIR\"))"):$(dirname "$(dirname "$P")")/nvidia_pytriton.libs
exec "$P/bin/tritonserver" --model-repository="$R" --backend-directory="$B" \
  --http-address=127.0.0.1 --grpc-address=127.0.0.1 --http-port="$HTTP_PORT" --grpc-port="$GRPC_PORT" \
  --allow-metrics=false --http-thread-count="${TRITON_HTTP_THREADS:-8}" ${TRITON_ARGS:-}
