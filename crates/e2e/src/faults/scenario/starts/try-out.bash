# Calls who would let it: SERVER ECHO KNOCK STREAM.
for _ in 1 2 3 4 5; do
    echo x >"/dev/udp/$1/$2"
done 2>/dev/null
for port in "$3" "$4"; do
    timeout 0.5 bash -c "</dev/tcp/$1/$port" 2>/dev/null
done
exec sleep 1000
