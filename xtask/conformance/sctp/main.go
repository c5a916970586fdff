// Command agnhost stands in for the program of that name in the pods of the suites where the kernel of the nodes has no
// SCTP sockets: it speaks as much of SCTP (RFC 9260) as it takes to open an association, over raw sockets, so that real
// packets meet the policy. For everything else it starts the program it stands in for, which is beside it.
//
//	agnhost porter                                   serves each port that a variable SERVE_SCTP_PORT_<port> names
//	agnhost connect --timeout=3s --protocol=sctp A:P opens an association; says TIMEOUT, REFUSED or OTHER if it cannot
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Original is what this stands in for.
const original = "/agnhost.original"

// Protocol is the number of SCTP.
const protocol = 132

func main() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "porter":
		fail("OTHER", porter())
	case len(os.Args) > 1 && os.Args[1] == "connect" && option("protocol") == "sctp":
		limit, err := time.ParseDuration(option("timeout"))
		fail("OTHER", err)
		fail("", dial(os.Args[len(os.Args)-1], limit))
	default:
		fail("OTHER", syscall.Exec(original, os.Args, os.Environ()))
	}
}

// option returns the value of an option written --name=value.
func option(name string) string {
	for _, word := range os.Args {
		if value, ok := strings.CutPrefix(word, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// fail ends the program if there is an error.
func fail(kind string, err error) {
	if err == nil {
		return
	}
	if kind != "" {
		err = fmt.Errorf("%s: %w", kind, err)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// porter answers on the ports that the environment names, and never ends.
func porter() error {
	ports := map[uint16]bool{}
	for _, variable := range os.Environ() {
		if rest, ok := strings.CutPrefix(variable, "SERVE_SCTP_PORT_"); ok {
			port, err := strconv.ParseUint(strings.Split(rest, "=")[0], 10, 16)
			if err != nil {
				return err
			}
			ports[uint16(port)] = true
		}
	}
	failed := make(chan error)
	for _, family := range []string{"ip4", "ip6"} {
		socket, err := net.ListenPacket(fmt.Sprintf("%s:%d", family, protocol), "")
		if err != nil {
			fmt.Fprintln(os.Stderr, family, err)
			continue
		}
		go func() { failed <- serve(socket, ports) }()
	}
	return <-failed
}

// serve answers whoever opens an association.
func serve(socket net.PacketConn, ports map[uint16]bool) error {
	buffer := make([]byte, 2048)
	for {
		n, peer, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		got, err := parse(buffer[:n])
		if err != nil || !ports[got.to] {
			continue
		}
		answer := packet{from: got.to, to: got.from}
		switch got.kind {
		case initiate:
			answer.tag, answer.kind = got.initiateTag, initiateAck
		case cookieEcho:
			// The cookie is the tag of the other side: nothing to remember.
			answer.tag, answer.kind = got.cookieTag, cookieAck
		default:
			continue
		}
		if _, err := socket.WriteTo(answer.bytes(), peer); err != nil {
			fmt.Fprintln(os.Stderr, "answering", peer, err)
		}
	}
}

// dial opens an association and ends it again.
func dial(target string, limit time.Duration) error {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return fmt.Errorf("UNKNOWN: %w", err)
	}
	to, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("UNKNOWN: %w", err)
	}
	// A connected socket: what others send does not arrive, and an error the network reports does.
	address, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	socket, err := net.DialIP(fmt.Sprintf("ip:%d", protocol), nil, address)
	if err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	defer socket.Close()
	if err := socket.SetDeadline(time.Now().Add(limit)); err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	err = handshake(socket, uint16(to))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("TIMEOUT")
	case errors.Is(err, errRefused), errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("REFUSED")
	case err != nil:
		return fmt.Errorf("OTHER: %w", err)
	}
	return nil
}

var errRefused = errors.New("the other side aborted")

// handshake sends what opens an association, each part again every half second until it is answered.
func handshake(socket *net.IPConn, to uint16) error {
	own := packet{from: 32768 + uint16(os.Getpid()%28000), to: to, kind: initiate}
	answer, err := ask(socket, own, initiateAck)
	if err != nil {
		return err
	}
	own.tag, own.kind, own.cookie = answer.initiateTag, cookieEcho, answer.cookie
	if _, err := ask(socket, own, cookieAck); err != nil {
		return err
	}
	own.kind = abort
	_, err = socket.Write(own.bytes())
	return err
}

func ask(socket *net.IPConn, question packet, wanted byte) (packet, error) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			if _, err := socket.Write(question.bytes()); err != nil {
				return
			}
			select {
			case <-done:
				return
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
	buffer := make([]byte, 2048)
	for {
		// Not Read: over IPv4 that gives the IP header too.
		n, _, err := socket.ReadFromIP(buffer)
		if err != nil {
			return packet{}, err
		}
		got, err := parse(buffer[:n])
		switch {
		case err != nil || got.from != question.to || got.to != question.from:
		case got.kind == abort:
			return packet{}, errRefused
		case got.kind == wanted:
			return got, nil
		}
	}
}
