# Opens a connection and leaves behind: result, when it began and ended, packets sent again. SERVER ECHO KNOCK STREAM.
begun=$EPOCHREALTIME
if { ended=$EPOCHREALTIME; } 3<>"/dev/tcp/$1/$4"; then
    result=ok
else
    result=failed
    ended=$EPOCHREALTIME
fi
# The second line of those that begin with "Tcp:" has the numbers; the thirteenth is RetransSegs (RFC 4022).
while read -r -a fields; do
    if [[ ${fields[0]} == Tcp: && ${fields[1]} != Rto* ]]; then
        again=${fields[12]}
    fi
done </proc/net/snmp
echo "$result $begun $ended $again" >/dev/termination-log
