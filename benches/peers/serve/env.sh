# sourced by every serve_*.sh: one model on loopback, same thread settings everywhere
: "${PEERS_HOME:?the directory that setup.sh made}"
export MODEL=${MODEL:-tabular_mlp} HTTP_PORT=${HTTP_PORT:-21000} GRPC_PORT=${GRPC_PORT:-21001} AUX_PORT=${AUX_PORT:-21002}
export ORT_INTRA=${ORT_INTRA:-1} PEER_WORKERS=${PEER_WORKERS:-2}
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PEERS_SERVE_DIR=$HERE PYTHONPATH=$HERE PYTHONDONTWRITEBYTECODE=1
VENV=$PEERS_HOME/venv
RUN=${PEER_RUN_DIR:-$PEERS_HOME/run/$HTTP_PORT}
mkdir -p "$RUN"
