#!/bin/sh
# The same as pacemaker-fences.crm, for pcs; on top of active-passive.pcs.sh.
# shellcheck disable=SC1010  # "then" is a word of pcs
set -e
pcs stonith create bmc-compute-1 fence_ipmilan ip=192.0.2.111 lanplus=1 username=admin \
    password_script='cat /etc/ha-agent/bmc-password' pcmk_host_list=compute-1 \
    pcmk_reboot_action=off pcmk_on_action=monitor
# It fails while a controller that took over waits for the lease of a dead one, so it is tried again.
pcs stonith create ha-agent fence_ha_agent mode=told power_timeout=100 \
    pcmk_off_timeout=130 pcmk_on_timeout=700 pcmk_reboot_action=off \
    meta failure-timeout=30s --disabled
# Its socket is where the controller is.
pcs constraint colocation add ha-agent with ha-agent-controller INFINITY
pcs constraint order ha-agent-controller then ha-agent
pcs stonith enable ha-agent
pcs resource create compute-1 ocf:pacemaker:remote server=192.0.2.11 op monitor interval=10s timeout=30s --force
pcs stonith level add 1 compute-1 bmc-compute-1 ha-agent --force
