// Package rig is a cluster's network on one machine, with real packets: each pod is a network namespace with real
// listeners, and a node routes between them and asks SIG Network's policy engine about every new connection. The
// namespaces have no names: they end with the process, however it ends.
package rig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// gateways are the node's addresses on every link; a host needs no more of the network than these.
var gateways = map[bool]netip.Addr{
	false: netip.MustParseAddr("169.254.1.1"),
	true:  netip.MustParseAddr("fe80::1"),
}

// refused marks packets that the gate refuses. They are answered rather than dropped, so that nobody who probes has to
// guess how long to wait.
const refused = 1

// Wire is the network: hosts, and the node between them.
type Wire struct {
	node  netns.NsHandle
	hosts map[string]*Host
	// links counts the links made: those of hosts that went may still be there.
	links int
}

// Host is a pod, or somebody outside the cluster.
type Host struct {
	Name  string
	Addrs []netip.Addr

	space     netns.NsHandle
	listeners []net.Listener
	packets   []net.PacketConn
}

// NewWire makes a network without hosts. It needs the right to make network namespaces, and iptables.
func NewWire() (*Wire, error) {
	for _, tool := range []string{"iptables", "ip6tables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing: install Debian's package iptables: %w", tool, err)
		}
	}
	node, err := newSpace()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace (this takes root, or a user namespace): %w", err)
	}
	w := &Wire{node: node, hosts: map[string]*Host{}}
	if err := inside(node, w.setUpNode); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the node: %w", err), w.Close())
	}
	return w, nil
}

func (w *Wire) setUpNode() error {
	for setting, value := range map[string]string{
		"net/ipv4/ip_forward":          "1",
		"net/ipv6/conf/all/forwarding": "1",
		// A refusal of UDP is an ICMP message: no kind of these is rationed.
		"net/ipv4/icmp_ratemask": "0",
		"net/ipv6/icmp/ratemask": "\n",
	} {
		if err := os.WriteFile("/proc/sys/"+setting, []byte(value), 0); err != nil {
			return err
		}
	}
	for _, iptables := range []string{"iptables", "ip6tables"} {
		for _, rule := range []string{
			"-t mangle -A FORWARD -m conntrack --ctstate NEW -j NFQUEUE --queue-num 0",
			fmt.Sprintf("-A FORWARD -p tcp -m mark --mark %d -j REJECT --reject-with tcp-reset", refused),
			fmt.Sprintf("-A FORWARD -m mark --mark %d -j REJECT", refused),
		} {
			if output, err := exec.Command(iptables, strings.Fields(rule)...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s %s: %w: %s", iptables, rule, err, output)
			}
		}
	}
	return nil
}

// AddHost connects a host with these addresses.
func (w *Wire) AddHost(name string, addrs ...netip.Addr) (*Host, error) {
	space, err := newSpace()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace for %s: %w", name, err)
	}
	host := &Host{Name: name, Addrs: addrs, space: space}
	w.hosts[name] = host
	return host, w.connect(host)
}

// Adopt takes in a host that is connected already, by its network namespace: a pod of a container runtime.
func (w *Wire) Adopt(name, path string, addrs ...netip.Addr) error {
	space, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open the network namespace of %s: %w", name, err)
	}
	w.hosts[name] = &Host{Name: name, Addrs: addrs, space: space}
	return nil
}

// Join connects this process's own network namespace, which must be a new one. It is none of the hosts.
func (w *Wire) Join(addrs ...netip.Addr) error {
	space, err := netns.Get()
	if err != nil {
		return err
	}
	defer space.Close()
	return w.connect(&Host{Name: "this process", Addrs: addrs, space: space})
}

// OnNode does something in the node's network namespace. A process that it starts stays there.
func (w *Wire) OnNode(do func() error) error { return inside(w.node, do) }

func (w *Wire) connect(host *Host) error {
	w.links++
	link := fmt.Sprintf("h%d", w.links)
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link}, PeerName: "eth0", PeerNamespace: netlink.NsFd(host.space)}
	if err := inside(w.node, func() error { return netlink.LinkAdd(pair) }); err != nil {
		return fmt.Errorf("connect %s: %w", host.Name, err)
	}
	if err := inside(host.space, host.setUp); err != nil {
		return fmt.Errorf("set up %s: %w", host.Name, err)
	}
	if err := inside(w.node, func() error { return routeTo(link, host.Addrs) }); err != nil {
		return fmt.Errorf("route to %s: %w", host.Name, err)
	}
	return nil
}

// setUp gives the host its addresses and the node as the way to all others.
func (h *Host) setUp() error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, addr := range h.Addrs {
		if err := netlink.AddrAdd(link, address(addr)); err != nil {
			return err
		}
		gateway := gateways[addr.Is6()]
		for _, route := range []*netlink.Route{
			{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: only(gateway)},
			{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()},
		} {
			if err := netlink.RouteReplace(route); err != nil {
				return fmt.Errorf("route %s: %w", route, err)
			}
		}
	}
	return nil
}

// routeTo makes the node know a host behind a link.
func routeTo(name string, addrs []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, gateway := range gateways {
		if err := netlink.AddrAdd(link, address(gateway)); err != nil {
			return err
		}
	}
	for _, addr := range addrs {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: only(addr)}); err != nil {
			return err
		}
	}
	return nil
}

// Host is one of the hosts, by its name.
func (w *Wire) Host(name string) *Host { return w.hosts[name] }

// RemoveHost disconnects a host.
func (w *Wire) RemoveHost(name string) error {
	host := w.hosts[name]
	if host == nil {
		return nil
	}
	delete(w.hosts, name)
	return host.close()
}

// Close ends the network.
func (w *Wire) Close() error {
	var errs []error
	for _, host := range w.hosts {
		errs = append(errs, host.close())
	}
	return errors.Join(append(errs, w.node.Close())...)
}

func (h *Host) close() error {
	var errs []error
	for _, listener := range h.listeners {
		errs = append(errs, listener.Close())
	}
	for _, packet := range h.packets {
		errs = append(errs, packet.Close())
	}
	return errors.Join(append(errs, h.space.Close())...)
}

func only(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// address is one that is usable at once: nobody else on the link can have it.
func address(addr netip.Addr) *netlink.Addr {
	const noDuplicateDetection = 0x02 // IFA_F_NODAD
	made := &netlink.Addr{IPNet: only(addr)}
	if addr.Is6() {
		made.Flags = noDuplicateDetection
	}
	return made
}

// newSpace makes a network namespace without a name.
func newSpace() (space netns.NsHandle, err error) {
	err = away(func() error {
		space, err = netns.New()
		return err
	})
	return space, err
}

// inside does something in a network namespace.
func inside(space netns.NsHandle, do func() error) error {
	return away(func() error {
		if err := netns.Set(space); err != nil {
			return err
		}
		return do()
	})
}

// away does something that changes the thread's network namespace, and brings the thread back. (Letting it end instead
// would kill the processes that it once started: they are told to die with it.)
func away(do func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	err = do()
	if back := netns.Set(home); back != nil {
		return errors.Join(err, back) // still locked: nobody else meets this thread
	}
	runtime.UnlockOSThread()
	return err
}
