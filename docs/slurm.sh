#!/bin/bash
#SBATCH --job-name=sfumato
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt

# Trains in pieces of four hours until the budget is spent: 180 s before the end of each piece Slurm
# sends SIGTERM, the run saves itself, and the job puts itself into the queue again.
#
#     sbatch docs/slurm.sh FOLDER_OF_IMAGES NAME
#
# One task a node: torchrun starts one process a GPU. runs/ has to lie on a disk that all nodes see.

images=$1
run=runs/$2
if [ -f "$run/run.json" ]; then
    words=("$run")
else
    words=("$images" --out "$run" --epochs 400)
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node gpu \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$first:29500" \
    -m sfumato train "${words[@]}"
code=$?

# 0: the budget is spent. Anything else: go on, but not for ever where nothing was ever saved.
if [ "$code" -ne 0 ] && ls "$run"/checkpoints/step-* > /dev/null 2>&1; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
