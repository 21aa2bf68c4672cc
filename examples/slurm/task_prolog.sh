#!/bin/sh
# TaskProlog of slurm.conf: tells the tasks of a node which device has which ordinal of gres.conf.
# A node whose chips all belong to one plugin, in the plugin's order, needs no line.
case "$SLURMD_NODENAME" in
n2) echo "export CONSORT_SLURM_DEVICES=opencl:0" ;;
n3) echo "export CONSORT_SLURM_DEVICES=npu-sim:0,opencl:0" ;;
esac
