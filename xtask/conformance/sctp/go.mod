module ringfence.example/conformance/sctp

go 1.25.0
