package main

import (
	"net"
	"os"
	"testing"
	"time"
)

func TestAnAssociationIsOpenedOrNot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: raw sockets need root")
	}
	socket, err := net.ListenPacket("ip4:132", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	go serve(socket, map[uint16]bool{9003: true})
	if err := dial("127.0.0.1:9003", 5*time.Second); err != nil {
		t.Errorf("the port that is served: %v", err)
	}
	if err := dial("127.0.0.1:9004", 50*time.Millisecond); err == nil || err.Error() != "TIMEOUT" {
		t.Errorf("the port that nobody serves: %v", err)
	}
}
