package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// patience is how long a probe waits for an answer. Refusals are answered too, so it is only ever used up when
// something is broken.
const patience = 5 * time.Second

// Listen opens a port on all of the host's addresses. What is connected to it gets the host's name.
func (h *Host) Listen(port Port) error {
	return inside(h.space, func() error {
		for _, addr := range h.Addrs {
			if err := h.listen(netip.AddrPortFrom(addr, port.Number), port.network()); err != nil {
				return fmt.Errorf("listen on %s of %s: %w", port, h.Name, err)
			}
		}
		return nil
	})
}

func (h *Host) listen(address netip.AddrPort, network string) error {
	if network == "udp" {
		conn, err := net.ListenPacket(network, address.String())
		if err != nil {
			return err
		}
		h.packets = append(h.packets, conn)
		go h.answerPackets(conn)
		return nil
	}
	listener, err := net.Listen(network, address.String())
	if err != nil {
		return err
	}
	h.listeners = append(h.listeners, listener)
	go h.answer(listener)
	return nil
}

func (h *Host) answer(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, h.Name) // a client that is gone doesn't matter
		_ = conn.Close()
	}
}

func (h *Host) answerPackets(conn net.PacketConn) {
	buffer := make([]byte, 64)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(h.Name), from)
	}
}

// Port is a port of a protocol that the rig can speak: TCP or UDP. (SCTP is not in every kernel.)
type Port struct {
	Number   uint16
	Protocol string
}

func (p Port) network() string { return strings.ToLower(p.Protocol) }

func (p Port) String() string {
	if p.Protocol == "TCP" {
		return fmt.Sprint(p.Number)
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

// Connect opens a new connection to an address and says whether it passed. Whoever answers must be the one expected.
// Anything else than an answer or a refusal is an error.
func (h *Host) Connect(ctx context.Context, to netip.Addr, port Port, expected string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var conn net.Conn
	err := inside(h.space, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, port.network(), netip.AddrPortFrom(to, port.Number).String())
		return err
	})
	if err != nil {
		return isRefused(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return false, err
	}
	if port.Protocol == "UDP" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return isRefused(err)
		}
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	if err != nil {
		return isRefused(err)
	}
	if string(answer[:n]) != expected {
		return false, fmt.Errorf("%s asked %s at %s and %s answered", h.Name, expected, to, answer[:n])
	}
	return true, nil
}

// isRefused tells a refusal from a broken rig.
func isRefused(err error) (bool, error) {
	for _, refusal := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES} {
		if errors.Is(err, refusal) {
			return false, nil
		}
	}
	return false, err
}

// Addr is the host's address of a family.
func (h *Host) Addr(v6 bool) (netip.Addr, bool) {
	for _, addr := range h.Addrs {
		if addr.Is6() == v6 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}
