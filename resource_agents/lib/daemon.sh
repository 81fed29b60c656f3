# shellcheck shell=sh
# What both agents share: one daemon, started, asked and stopped. Installed as /usr/lib/ocf/lib/ha-agent/daemon.sh, sourced after ocf-shellfuncs.
#
# An agent sets DAEMON (what it is called) and three functions:
#   daemon_exec BEFORE     becomes the daemon; BEFORE: words that stand before its command
#   daemon_ask SECONDS     asks it how it is; 0 and one line where it is well
#   daemon_check SECONDS   0 where its configuration is good, 2 and the problems where it is not, 5 where something is missing here
# and `parameters`, which prints those that only it has, and meta_data, which calls meta.
#
# OCF_RESKEY_pidfile holds "PID START BOOT": pid, start time in clock ticks since the boot, id of the boot. Together they name one process
# for ever, so that another one that got its pid later is never taken for it.

# shellcheck disable=SC2154  # OCF_* and OCF_RESKEY_* come from the cluster, OCF_ERR_* from ocf-shellfuncs

: "${OCF_RESKEY_CRM_meta_timeout:=20000}"
action_s=$((OCF_RESKEY_CRM_meta_timeout / 1000))

# --- the process ---

started_at() { # PID: prints when it started; fails where it is not there, or is a zombie
    { read -r stat < "/proc/$1/stat"; } 2> /dev/null || return 1
    # shellcheck disable=SC2086  # fields; the command's name before them may hold blanks
    set -- ${stat##*) }
    case $1 in Z | X | x) return 1 ;; esac
    echo "${20}"
}

runs() { # sets pid; fails where the process of the record is not there
    { read -r pid start boot < "$OCF_RESKEY_pidfile"; } 2> /dev/null || return 1
    ocf_is_decimal "$pid" || return 1
    read -r this_boot < /proc/sys/kernel/random/boot_id
    [ "$boot" = "$this_boot" ] && [ "$(started_at "$pid")" = "$start" ]
}

launch() { # in a session of its own, which the end of this agent does not touch; writes its record before it becomes the daemon
    (
        cd / && umask 077
        read -r pid _ < /proc/self/stat
        read -r boot < /proc/sys/kernel/random/boot_id
        echo "$pid $(started_at "$pid") $boot" > "$OCF_RESKEY_pidfile" || exit 1
        # As the systemd units: keys are in its memory, and what watches the hosts is killed last when memory is short.
        echo -900 2> /dev/null > /proc/self/oom_score_adj || :
        daemon_exec "setsid prlimit --core=0 --nofile=16384"
    ) < /dev/null >> "$OCF_RESKEY_log" 2>&1 &
    pid=$!
}

# --- small things ---

now() { # seconds; no clock that somebody sets
    read -r uptime _ < /proc/uptime
    echo "${uptime%%.*}"
}

first_line() {
    sed -n '1 { s/^ha-agent: //; p }'
}

tell() { # logs what it says of itself, when that is new
    [ "$said" = "$(cat "$OCF_RESKEY_pidfile.said" 2> /dev/null)" ] && return
    ocf_log info "$DAEMON: $said"
    echo "$said" > "$OCF_RESKEY_pidfile.said"
}

# --- actions ---

is_well() { # SECONDS: 0 where the daemon itself says so within them, and within 8 s; sets said
    patience=$(($1 < 8 ? $1 : 8))
    said=$(daemon_ask "$patience" 2>&1)
    case $? in
        0) said=$(echo "$said" | first_line) && return 0 ;;
        124 | 137) said="it runs, but does not answer within $patience s: its loop hangs" ;;
        *) said=$(echo "$said" | first_line) ;;
    esac
    return 1
}

daemon_monitor() {
    if runs; then
        # Some seconds are left to end a question that hangs.
        if is_well $((action_s > 4 ? action_s - 3 : 1)); then
            tell
            return "$OCF_SUCCESS"
        fi
        if runs; then # it did not die while it was asked
            ocf_exit_reason "$DAEMON (process $pid) is not well: $said"
            return "$OCF_ERR_GENERIC"
        fi
    fi
    if [ -e "$OCF_RESKEY_pidfile" ]; then
        ocf_exit_reason "$DAEMON is dead: process $pid has ended by itself or was killed; see $OCF_RESKEY_log"
    elif ! have_binary "$OCF_RESKEY_binary"; then
        return "$OCF_ERR_INSTALLED"
    fi
    return "$OCF_NOT_RUNNING"
}

daemon_start() {
    end=$(($(now) + action_s - 2))
    if ! runs; then
        validate "$OCF_ERR_ARGS" || return $?
        if [ -S "$OCF_RESKEY_socket" ] && is_well "$action_s"; then
            ocf_exit_reason "another one, which this resource has not started, answers at $OCF_RESKEY_socket; is its systemd unit enabled?"
            return "$OCF_ERR_GENERIC"
        fi
        rm -f "$OCF_RESKEY_pidfile.said"
        launch
    fi
    while started_at "$pid" > /dev/null; do
        left=$((end - $(now)))
        if [ "$left" -le 0 ]; then
            ocf_exit_reason "$DAEMON was started, but is not well: $said"
            return "$OCF_ERR_GENERIC"
        fi
        if is_well "$left"; then
            tell
            return "$OCF_SUCCESS"
        fi
        sleep 0.5
    done
    ocf_exit_reason "$DAEMON ended as soon as it was started: $(tail -n 2 "$OCF_RESKEY_log" | tr '\n' ' ')"
    return "$OCF_ERR_GENERIC"
}

daemon_stop() {
    if runs; then
        end=$(($(now) + (action_s > 6 ? action_s - 4 : action_s / 2)))
        # It ends what is under way, and gives the lease away.
        kill -s TERM "$pid"
        while runs; do
            if [ "$(now)" -ge "$end" ]; then
                ocf_log warn "$DAEMON (process $pid) does not end by itself; it is killed, with what it has started"
                kill -s KILL -- "-$pid" 2> /dev/null || kill -s KILL "$pid"
                end=$((end + action_s))
            fi
            sleep 0.2
        done
    fi
    rm -f "$OCF_RESKEY_pidfile" "$OCF_RESKEY_pidfile.said"
    return "$OCF_SUCCESS"
}

validate() { # WRONG: what to return for a configuration that is wrong
    for name in config socket pidfile log; do
        eval "value=\$OCF_RESKEY_$name"
        case $value in
            /*) ;;
            *)
                ocf_exit_reason "$name must be an absolute path, not '$value'"
                return "$OCF_ERR_CONFIGURED"
                ;;
        esac
    done
    if [ "$(id -u)" -ne 0 ]; then
        ocf_exit_reason "only root may start $DAEMON for the cluster"
        return "$OCF_ERR_PERM"
    fi
    if ! have_binary "$OCF_RESKEY_binary"; then
        ocf_exit_reason "binary: $OCF_RESKEY_binary is not installed here"
        return "$OCF_ERR_INSTALLED"
    fi
    if [ ! -r "$OCF_RESKEY_config" ] || [ ! -d "${OCF_RESKEY_log%/*}/" ]; then
        ocf_exit_reason "config and log: $OCF_RESKEY_config, or the directory of $OCF_RESKEY_log, is not here; on a file system that is not mounted?"
        return "$OCF_ERR_INSTALLED"
    fi
    said=$(daemon_check "$action_s" 2>&1)
    case $? in
        0) return "$OCF_SUCCESS" ;;
        2)
            ocf_exit_reason "config: $(echo "$said" | tr '\n' ' ')"
            return "$1"
            ;;
        "$OCF_ERR_INSTALLED")
            ocf_exit_reason "$said"
            return "$OCF_ERR_INSTALLED"
            ;;
    esac
    ocf_exit_reason "config: $OCF_RESKEY_config could not be checked: $said"
    return "$OCF_ERR_GENERIC"
}

# --- metadata ---

parameter() { # NAME UNIQUE DEFAULT SHORT LONG
    cat << END
<parameter name="$1" unique="$2" required="0">
<longdesc lang="en">$5</longdesc>
<shortdesc lang="en">$4</shortdesc>
<content type="string" default="$3"/>
</parameter>
END
}

meta() { # NAME SHORT LONG; the agent's function `parameters` prints its own
    cat << END
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="$1" version="0.1.0">
<version>1.1</version>
<longdesc lang="en">$3</longdesc>
<shortdesc lang="en">$2</shortdesc>
<parameters>
END
    parameter binary 0 /opt/ha-agent/bin/ha-agent "the program" \
        "The ha-agent program. Root runs it, so nobody else may be able to change it."
    parameters
    parameter pidfile 1 "$HA_RSCTMP/ha-agent-$1-ID.pid" "record of the process" \
        "Where the process is remembered: its pid, its start time and the id of the boot. Better in a directory that a reboot empties."
    parameter log 0 "/var/log/ha-agent-$1.log" "log file" \
        "What the daemon says is appended here. Rotate it with copytruncate."
    parameter options 0 "" "more options" \
        "Words that are added to the daemon's command line."
    cat << END
</parameters>
<actions>
<action name="start" timeout="60s"/>
<action name="stop" timeout="30s"/>
<action name="monitor" timeout="20s" interval="10s" depth="0"/>
<action name="validate-all" timeout="30s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
END
}

# --- what the cluster asks ---

act() { # ACTION
    case $1 in
        start) daemon_start ;;
        stop) daemon_stop ;;
        monitor) daemon_monitor ;;
        validate-all) validate "$OCF_ERR_CONFIGURED" ;;
        meta-data) meta_data ;;
        usage | help) echo "usage: $0 start|stop|monitor|validate-all|meta-data" ;;
        *)
            echo "usage: $0 start|stop|monitor|validate-all|meta-data" >&2
            return "$OCF_ERR_UNIMPLEMENTED"
            ;;
    esac
}
