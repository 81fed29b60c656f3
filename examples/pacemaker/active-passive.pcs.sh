#!/bin/sh
# The same as active-passive.crm, for pcs. Change addresses, passwords and the device.
# shellcheck disable=SC1010  # "then" is a word of pcs
set -e
pcs property set stonith-enabled=true
pcs stonith create fence-ctl-1 fence_ipmilan ip=192.0.2.101 lanplus=1 username=admin \
    password_script='cat /etc/ha-agent/bmc-password' pcmk_host_list=ctl-1
pcs stonith create fence-ctl-2 fence_ipmilan ip=192.0.2.102 lanplus=1 username=admin \
    password_script='cat /etc/ha-agent/bmc-password' pcmk_host_list=ctl-2
pcs constraint location fence-ctl-1 avoids ctl-1
pcs constraint location fence-ctl-2 avoids ctl-2
# Disabled until its constraints are there: it never starts without its disk.
pcs resource create ha-agent-disk ocf:heartbeat:Filesystem device=/dev/ha/agent directory=/srv/ha-agent fstype=ext4
pcs resource create --disabled ha-agent-controller ocf:ha-agent:controller \
    config=/srv/ha-agent/etc/controller.yaml clouds=/srv/ha-agent/etc/clouds.yaml
pcs constraint colocation add ha-agent-controller with ha-agent-disk INFINITY
pcs constraint order ha-agent-disk then ha-agent-controller
pcs resource enable ha-agent-controller
