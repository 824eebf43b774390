# Settings that every stage shares; sourced by the other scripts. Anything already set wins.

export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"               # nothing is downloaded behind the user's back
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"             # same thread count, same floating-point sums
export WANDB_MODE="${WANDB_MODE:-disabled}"
export PYTHONUNBUFFERED=1
