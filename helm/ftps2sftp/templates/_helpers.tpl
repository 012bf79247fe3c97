{{- /* Names, labels, and the configuration that the values amount to. */}}

{{- define "ftps2sftp.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 48 characters at most: pods and Services get a suffix, and all of them a label of 63. */}}
{{- define "ftps2sftp.fullname" -}}
{{- $name := include "ftps2sftp.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 48 | trimSuffix "-" }}
{{- end }}

{{- define "ftps2sftp.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ftps2sftp.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Of the pods of `helm test`. Not those of the gateway: no Service must take one for it. */}}
{{- define "ftps2sftp.probeLabels" -}}
app.kubernetes.io/name: {{ include "ftps2sftp.name" . }}-probe
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ftps2sftp.labels" -}}
{{ include "ftps2sftp.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ftps2sftp.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "ftps2sftp.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "ftps2sftp.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "ftps2sftp.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "ftps2sftp.fullname" .)) }}
{{- end }}

{{- /* How many pods there are. */}}
{{- define "ftps2sftp.replicas" -}}
{{- int64 .Values.replicas }}
{{- end }}

{{- /* The listeners that are on: a list of {name, port, servicePort, nodePort}, as YAML. */}}
{{- define "ftps2sftp.listeners" -}}
{{- $listeners := list }}
{{- range $name := list "explicit" "implicit" }}
{{- $listener := index $.Values.listeners $name }}
{{- if $listener.enabled }}
{{- $listeners = append $listeners (merge (dict "name" $name) (omit $listener "enabled")) }}
{{- end }}
{{- end }}
{{- toYaml $listeners }}
{{- end }}

{{- /* First and last passive port, as YAML. The only place that reads `passive.ports`. */}}
{{- define "ftps2sftp.passive" -}}
{{- $bounds := splitList "-" .Values.passive.ports }}
first: {{ first $bounds | int64 }}
last: {{ last $bounds | int64 }}
{{- end }}

{{- /* The ports of a Service that clients use. */}}
{{- define "ftps2sftp.servicePorts" -}}
{{- $isNodePort := eq .Values.service.type "NodePort" }}
{{- range include "ftps2sftp.listeners" . | fromYamlArray }}
- name: {{ .name }}
  port: {{ int64 .servicePort }}
  targetPort: {{ .name }}
  {{- if and $isNodePort .nodePort }}
  nodePort: {{ int64 .nodePort }}
  {{- end }}
{{- end }}
{{- $passive := include "ftps2sftp.passive" . | fromYaml }}
{{- range untilStep (int $passive.first) (int (add1 $passive.last)) 1 }}
- name: passive-{{ . }}
  port: {{ . }}
  targetPort: passive-{{ . }}
  {{- if $isNodePort }}
  nodePort: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* What Services for clients have in common, below `spec`. */}}
{{- define "ftps2sftp.serviceSpec" -}}
{{- with .Values.service -}}
type: {{ .type }}
# There is one pod behind each of these Services, and so nobody to go to instead. Without this, a gateway that takes no new
# sessions (it is full, or drains) would lose the data connections of those that it has.
publishNotReadyAddresses: true
{{- if ne .type "ClusterIP" }}
externalTrafficPolicy: {{ .externalTrafficPolicy }}
{{- end }}
{{- if eq .type "LoadBalancer" }}
allocateLoadBalancerNodePorts: {{ .allocateLoadBalancerNodePorts }}
{{- with .loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
{{- with .loadBalancerSourceRanges }}
loadBalancerSourceRanges: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
ports: {{- include "ftps2sftp.servicePorts" . | nindent 2 }}
{{- end }}

{{- /* The ConfigMap that the pods mount. */}}
{{- define "ftps2sftp.configMapName" -}}
{{- .Values.existingConfigMap | default (include "ftps2sftp.fullname" .) }}
{{- end }}

{{- /* The pods' security context. */}}
{{- define "ftps2sftp.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext }}
{{- if .Values.lowPorts }}
{{- $_ := set $context "sysctls" (append ($context.sysctls | default list) (dict "name" "net.ipv4.ip_unprivileged_port_start" "value" "0")) }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{- /* The TCP ports of the backends: those of the value, or as they stand in their addresses, as YAML. */}}
{{- define "ftps2sftp.backendPorts" -}}
{{- $ports := .Values.networkPolicy.backendPorts }}
{{- if not $ports }}
{{- if .Values.existingConfigMap }}
{{- $ports = list 22 }}
{{- end }}
{{- range .Values.config.backends }}
{{- range kindIs "slice" .address | ternary .address (list .address) }}
{{- $port := regexFind ":[0-9]+$" (toString .) | trimPrefix ":" }}
{{- $ports = append $ports ($port | default "22" | int64) }}
{{- end }}
{{- end }}
{{- end }}
{{- $ports | uniq | sortAlpha | toYaml }}
{{- end }}

{{- /* The bytes of a size as Kubernetes or the gateway writes it (512Mi, 1.5G, 8MiB, a number); empty for anything else. */}}
{{- define "ftps2sftp.bytes" -}}
{{- $text := kindIs "string" . | ternary . (int64 . | toString) | toString | trimSuffix "B" }}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := trimPrefix $number $text }}
{{- if and $number (hasKey $units $unit) }}
{{- mulf (float64 $number) (get $units $unit) | int64 }}
{{- end }}
{{- end }}

{{- /* The configuration's limits. Where it says nothing of them, a window and as many sessions as have room for a transfer each
in the memory limit: a process that wants more is killed, and every session with it. */}}
{{- define "ftps2sftp.limits" -}}
{{- $values := .Values }}
{{- $limits := deepCopy ($values.config.limits | default dict) }}
{{- $resources := $values.resources | default dict }}
{{- $memory := include "ftps2sftp.bytes" (get ($resources.limits | default dict) "memory") | int64 }}
{{- if $memory }}
{{- $window := $limits.transfer_window | default "1MiB" }}
{{- $_ := set $limits "transfer_window" $window }}
{{- $bytes := include "ftps2sftp.bytes" $window | int64 }}
{{- if and $bytes (not (hasKey $limits "sessions")) }}
{{- /* 64 MiB for itself, and 128 KiB for a session. Never more than the gateway's own default. */}}
{{- $sessions := div (sub $memory 67108864) (add 131072 (mul 2 $bytes)) }}
{{- $_ := set $limits "sessions" (max 1 (min 10000 $sessions)) }}
{{- end }}
{{- end }}
{{- toYaml $limits }}
{{- end }}

{{- /* The gateway's configuration: what the values say, and of `config` what the chart has no value for. */}}
{{- define "ftps2sftp.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $listeners := list }}
{{- range include "ftps2sftp.listeners" . | fromYamlArray }}
{{- $listeners = append $listeners (dict "name" .name "address" (printf "0.0.0.0:%d" (int64 .port)) "tls" .name "proxy_protocol" $.Values.proxyProtocol.control) }}
{{- end }}
{{- $_ := set $config "listeners" $listeners }}

{{- $address := .Values.passive.address }}
{{- if and (eq .Values.mode "perPod") .Values.perPod.hostname }}
{{- $address = "${env:PASSIVE_ADDRESS}" }}
{{- end }}
{{- $_ := set $config "passive" (dict "ports" .Values.passive.ports "address" $address "overrides" .Values.passive.overrides "shared" .Values.passive.shared "proxy_protocol" .Values.proxyProtocol.data) }}
{{- with .Values.proxyProtocol.trusted }}
{{- $_ := set $config "trusted_proxies" . }}
{{- end }}

{{- with include "ftps2sftp.limits" . | fromYaml }}
{{- $_ := set $config "limits" . }}
{{- end }}

{{- $tls := deepCopy ($config.tls | default dict) }}
{{- $_ := set $tls "certificates" (list (dict "certificate" "/tls/tls.crt" "key" "/tls/tls.key")) }}
{{- if ne .Values.tls.clientCertificates "off" }}
{{- $_ := set $tls "client_certificates" .Values.tls.clientCertificates }}
{{- $_ := set $tls "client_ca" "/client-ca/ca.crt" }}
{{- if .Values.tls.clientCrl }}
{{- $_ := set $tls "client_crl" "/client-ca/ca.crl" }}
{{- end }}
{{- end }}
{{- $_ := set $config "tls" $tls }}

{{- range $backend := $config.backends }}
{{- if not (or $backend.known_hosts $backend.host_keys) }}
{{- $_ := set $backend "known_hosts" "/etc/ftps2sftp/known_hosts" }}
{{- end }}
{{- end }}

{{- $_ := set $config "shutdown" (dict "delay" (printf "%ds" (int64 .Values.shutdown.delaySeconds)) "drain" (printf "%ds" (int64 .Values.shutdown.drainSeconds))) }}
{{- $admin := deepCopy ($config.admin | default dict) }}
{{- $_ := set $admin "address" (printf "%s:%d" (include "ftps2sftp.adminAddress" .) (int64 .Values.metrics.port)) }}
{{- $_ := set $config "admin" $admin }}
{{- toYaml $config }}
{{- end }}

{{- /* The rules, for the job of this gateway: the monitors call it by the name of the chart, which may be another. */}}
{{- define "ftps2sftp.rules" -}}
{{- .Files.Get "files/rules.yaml" | replace "job=~\".*ftps2sftp.*\"" (printf "job=%s" (include "ftps2sftp.name" . | quote)) }}
{{- end }}

{{- /* Where the admin listener is. It asks nobody who they are, and on a node no NetworkPolicy keeps anybody away. */}}
{{- define "ftps2sftp.adminAddress" -}}
{{- ternary "127.0.0.1" "0.0.0.0" (and (eq .Values.mode "hostNetwork") (not .Values.metrics.exposeOnNodes)) }}
{{- end }}

{{- /* A probe of the admin listener: path, changes of the values, and the mode. On a node's network kubelet, which asks from
there, reaches the loopback, too. */}}
{{- define "ftps2sftp.probe" -}}
{{- $get := dict "path" .path "port" "metrics" }}
{{- if eq .mode "hostNetwork" }}
{{- $_ := set $get "host" "127.0.0.1" }}
{{- end }}
{{- toYaml (merge (dict "httpGet" $get) .changes) }}
{{- end }}

{{- /* Why `helm test` could only fail; empty where it can succeed. */}}
{{- define "ftps2sftp.noProbe" -}}
{{- if eq .Values.tls.clientCertificates "required" -}}
clients must show a certificate, and its client has none
{{- else if and (eq .Values.proxyProtocol.control "required") (not .Values.test.url) -}}
connections must begin with a PROXY header, which only the load balancer writes. With test.url it goes through that
{{- end }}
{{- end }}
